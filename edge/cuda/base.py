"""Interface to implement for an engine whose tensors are in GPU memory."""

from collections.abc import Callable, Mapping
from typing import Protocol

MAX_BATCH = 32
"""Largest batch of an engine built without a pinned batch."""


class DeviceEngine(Protocol):
    """A segment made runnable on a GPU."""

    def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
        """Bind device addresses to the segment's inputs and outputs by name, once; other names are ignored.

        Calling the result with a stream's handle enqueues the segment there. It neither waits nor allocates. Bindings
        may run at the same time, each on one stream only.

        Raises:
            EngineError: the library refuses an address.
        """

    def bind_batch(self, addresses: Mapping[str, int]) -> Callable[[int, int], None]:
        """Bind an engine built without a pinned batch.

        The result is called with a stream's handle and the number of samples at the addresses.
        """
