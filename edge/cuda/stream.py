"""A stream that pycuda owns and cuda.core launches on."""

from contextlib import suppress
from typing import Any

import pycuda.driver as driver
from cuda.core import Stream

from edge.cuda.memory import Upload

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream does not synchronise with the default stream, which would break a capture."""


class GpuStream:
    """A stream.

    Attributes:
        handle: Handle for libraries that enqueue on it.
        core: The stream for cuda.core's launches; making it takes 15 us, so it is made once.
    """

    def __init__(self) -> None:
        """Create the stream in the current context, which must be current when it is closed."""
        self.owner: Any = driver.Stream(NON_BLOCKING)
        self.handle = int(self.owner.handle)
        self.core = Stream.from_handle(self.handle)

    def upload(self, copy: Upload) -> None:
        """Enqueue a copy to the GPU."""
        driver.memcpy_htod_async(copy.address, copy.source, self.owner)

    def synchronize(self) -> None:
        """Wait for the stream's work."""
        self.owner.synchronize()

    def close(self) -> None:
        """Wait for the stream's work, whose errors have already been raised, and destroy the stream. Idempotent."""
        if self.owner is not None:
            with suppress(driver.Error):
                self.owner.synchronize()
            self.owner = None  # pycuda destroys a stream with its last reference, and leaks it in another context
