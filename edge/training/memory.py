"""Memory that runs out while training is reported in one line with its remedy."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from edge.errors import DataError

OUT_OF_MEMORY = re.compile(r"out of memory|(?:can't|cannot|unable to) allocate|ALLOC_FAILED|bad_alloc", re.IGNORECASE)
"""As CUDA, torch's allocator for the CPU, NumPy, cuDNN and cuBLAS, and C++ say it."""
REQUEST = re.compile(r"(?:tried to|unable to) allocate ([\d.]+ ?\w+)", re.IGNORECASE)


@contextmanager
def report_exhausted_memory() -> Iterator[None]:
    """Report memory that runs out, as a context or a decorator.

    Raises:
        DataError: memory ran out. torch raises `RuntimeError` on a CPU, and a subclass of it on a GPU.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        request = REQUEST.search(str(error))
        amount = f": {request[1]} more do not fit" if request else ""
        raise DataError(
            f"memory ran out{amount}; lower --batch-size or --image-size, or choose a smaller --backbone"
        ) from error
