"""A stream that pycuda owns and cuda.core launches on."""

from contextlib import suppress
from typing import Any

import pycuda.driver as driver
from cuda.core import Stream

from edge.cuda.base import Sync

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream does not synchronise with the default stream, which would break a capture."""


class GpuStream:
    """A stream.

    Attributes:
        handle: Handle for libraries that enqueue on it.
        core: The stream for cuda.core's launches; making it takes 15 us, so it is made once.
    """

    def __init__(self, sync: Sync = "spin") -> None:
        """Create the stream in the current context, which must be current when it is closed."""
        self.owner: Any = driver.Stream(NON_BLOCKING)
        self.handle = int(self.owner.handle)
        self.core = Stream.from_handle(self.handle)
        flags = driver.event_flags
        self._events: dict[Sync, Any] = {
            "spin": driver.Event(flags.DISABLE_TIMING),
            "block": driver.Event(flags.DISABLE_TIMING | flags.BLOCKING_SYNC),
        }
        self.set_sync(sync)

    def set_sync(self, sync: Sync) -> None:
        """Set how threads wait. The context's flags decide nothing here."""
        self._event = self._events[sync]

    def synchronize(self) -> None:
        """Wait for the stream's work."""
        self._event.record(self.owner)
        self._event.synchronize()

    def drain(self) -> None:
        """Wait for the stream's work, whose errors have already been raised."""
        if self.owner is not None:
            with suppress(driver.Error):
                self.owner.synchronize()

    def close(self) -> None:
        """Wait for the stream's work, and destroy the stream. Idempotent."""
        self.drain()
        self._events.clear()
        self._event = self.owner = None  # pycuda destroys them now, and would leak them in another context
