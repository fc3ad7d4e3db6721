"""Capture of a segment at top level, on a new stream, into a graph to embed.

A spoilt capture into the body of a conditional node ends the process (NVIDIA/cuda-python#2918), and a `GraphBuilder` of
cuda.core 1.2 whose capture is spoilt crashes when it is freed (NVIDIA/cuda-python#2834). So the driver captures, and
only what an inference library enqueues.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cuda.bindings import driver as cuda
from cuda.core.graph import GraphDefinition

from edge.cuda.stream import GpuStream


def capture(enqueue: Callable[[GpuStream], None]) -> GraphDefinition:
    """Capture a segment, which must have run once before.

    Args:
        enqueue: Enqueues the segment on a stream.

    Raises:
        RuntimeError: the segment cannot be captured.
        Exception: any type that an inference library raises during capture.
    """
    stream, mode, captured = GpuStream(), cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED, None
    try:
        with _garbage_collection_paused():
            _check_status(*cuda.cuStreamBeginCapture(stream.handle, mode))  # other threads may run frames meanwhile
            try:
                enqueue(stream)
            finally:
                status, captured = cuda.cuStreamEndCapture(stream.handle)
        _check_status(status)
        graph = GraphDefinition()
        _check_status(cuda.cuGraphAddChildGraphNode(graph.handle, None, 0, captured)[0])  # a copy
        return graph
    finally:
        if captured is not None:
            cuda.cuGraphDestroy(captured)
        stream.close()


def _check_status(status: cuda.CUresult) -> None:
    if status != cuda.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver returned {status.name}")


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection: memory, streams and graphs freed during a capture invalidate it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
