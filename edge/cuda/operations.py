"""Work on the GPU that is either enqueued on a stream or added to a graph: uploads, segments, and `kernels.Launch`."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import pycuda.driver as driver
from cuda.core.graph import GraphDefinition
from numpy.typing import NDArray

from edge.cuda.capture import capture
from edge.cuda.stream import GpuStream
from edge.errors import EngineError

CAPTURE_ATTEMPTS = 3
"""A synchronisation of the whole GPU by another library's thread may spoil a capture, but seldom the next."""


class Operation(Protocol):
    """Work on the GPU."""

    def on(self, stream: GpuStream) -> None:
        """Enqueue on a stream."""

    def after(self, node: Any) -> Any:
        """Add a node to a graph that depends on another node, or an entry node to a graph definition; return it."""


class Upload(NamedTuple):
    """A copy of pinned memory to the GPU."""

    address: int
    source: NDArray[np.uint8]

    def on(self, stream: GpuStream) -> None:
        """Enqueue on a stream."""
        driver.memcpy_htod_async(self.address, self.source, stream.owner)

    def after(self, node: Any) -> Any:
        """Add to a graph."""
        return node.memcpy(self.address, self.source.ctypes.data, self.source.nbytes)


class Segment:
    """A segment of a chain, bound to its memory. In graphs it is a child graph, captured once."""

    def __init__(self, index: int, enqueue: Callable[[int], None]) -> None:
        """Store the function that enqueues the segment on the stream of a handle."""
        self._index, self._enqueue = index, enqueue

    def on(self, stream: GpuStream) -> None:
        """Enqueue on a stream."""
        self._enqueue(stream.handle)

    def after(self, node: Any) -> Any:
        """Add to a graph.

        Raises:
            EngineError: the segment cannot be captured.
        """
        if isinstance(self._graph, str):
            raise EngineError(f"segment {self._index} cannot be captured: {self._graph}")
        return node.embed(self._graph)

    @cached_property
    def _graph(self) -> GraphDefinition | str:
        """Captured at the first use; the reason if it cannot be, which is not tried again."""
        reason: Exception | None = None
        for _ in range(CAPTURE_ATTEMPTS):
            try:
                return capture(self.on)
            except Exception as error:  # of any type that drivers and libraries raise
                reason = error
        return str(reason)
