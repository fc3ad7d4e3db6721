"""CUDA graphs of a chain, made of segments that are captured once and embedded.

Only what an inference library enqueues is captured, at top level and on a new stream; all else is built explicitly. A
spoilt capture into the body of a conditional node ends the process (NVIDIA/cuda-python#2918).
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cuda.bindings import driver as cuda
from cuda.core.graph import Graph, GraphDefinition

from edge.cuda.chain import Chain
from edge.cuda.stream import GpuStream


def chain_graph(chain: Chain, segments: Sequence[GraphDefinition]) -> Graph:
    """Return the chain as one graph: each segment after the first is in a body that the previous exit opens."""
    graph = GraphDefinition()
    conditions = [graph.create_condition(default_value=0) for _ in segments[1:]]
    node = chain.add_input(graph)
    for index, segment in enumerate(segments):
        condition = conditions[index] if index < len(conditions) else None
        node = chain.decision(index, condition).after(node.embed(segment))
        if condition is not None:
            node = node.if_then(condition).then
    return instantiate(chain, graph)


def step_graph(chain: Chain, index: int, segment: GraphDefinition) -> Graph:
    """Return one segment and its exit's decision as a graph; before the first segment, the input."""
    graph = GraphDefinition()
    start = graph if index else chain.add_input(graph)
    chain.decision(index).after(start.embed(segment))
    return instantiate(chain, graph)


def instantiate(chain: Chain, definition: GraphDefinition) -> Graph:
    """Return a graph of a chain, uploaded to the GPU, so that its first launch takes as long as the second."""
    graph = definition.instantiate()
    try:
        graph.upload(chain.stream.core)
    except BaseException:
        graph.close()
        raise
    return graph


def capture(enqueue: Callable[[int], None]) -> GraphDefinition:
    """Capture a segment, which must have run once before, into a graph to embed.

    The driver captures it: a `GraphBuilder` of cuda.core 1.2 whose capture is spoilt crashes when it is freed
    (NVIDIA/cuda-python#2834).

    Args:
        enqueue: Enqueues the segment on the stream of a handle.

    Raises:
        RuntimeError: the segment cannot be captured.
        Exception: any type that an inference library raises during capture.
    """
    stream, mode, captured = GpuStream(), cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED, None
    try:
        with _garbage_collection_paused():
            _check_status(*cuda.cuStreamBeginCapture(stream.handle, mode))  # other threads may run frames meanwhile
            try:
                enqueue(stream.handle)
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
