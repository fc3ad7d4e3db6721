"""Memory that runs out while training is reported in one line with its remedy."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from edge.errors import UnavailableError, is_out_of_memory

REQUEST = re.compile(r"(?:tried to|unable to) allocate ([\d.]+ ?\w+)", re.IGNORECASE)


@contextmanager
def report_exhausted_memory() -> Iterator[None]:
    """Report memory that runs out, as a context or a decorator.

    Raises:
        UnavailableError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        request = REQUEST.search(str(error))
        amount = f": {request[1]} more do not fit" if request else ""
        raise UnavailableError(
            f"memory ran out{amount}; lower --batch-size or --image-size, use fewer images,"
            " or choose a smaller --backbone"
        ) from error
