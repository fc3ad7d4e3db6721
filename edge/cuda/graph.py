"""CUDA graphs of a chain, made of segments that are captured once and embedded.

Only what an inference library enqueues is captured, at top level and on a new stream; all else is built explicitly. A
spoilt capture into the body of a conditional node ends the process (NVIDIA/cuda-python#2918).
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cuda.bindings import driver as cuda
from cuda.core.graph import Graph, GraphDefinition

from edge.cuda.chain import Chain
from edge.cuda.stream import GpuStream

NODE_TYPES = cuda.CUgraphNodeType
BODY_NODE_TYPES = (
    NODE_TYPES.CU_GRAPH_NODE_TYPE_KERNEL,
    NODE_TYPES.CU_GRAPH_NODE_TYPE_MEMCPY,
    NODE_TYPES.CU_GRAPH_NODE_TYPE_MEMSET,
    NODE_TYPES.CU_GRAPH_NODE_TYPE_EMPTY,
    NODE_TYPES.CU_GRAPH_NODE_TYPE_GRAPH,
)
"""Nodes that CUDA allows in a conditional body."""


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
    graph.upload(chain.stream.core)
    return graph


def capture(enqueue: Callable[[int], None]) -> GraphDefinition:
    """Capture a segment, which must have run once before, into a graph to embed.

    The driver captures it: a `GraphBuilder` of cuda.core 1.2 whose capture is spoilt crashes when it is freed
    (NVIDIA/cuda-python#2834).

    Args:
        enqueue: Enqueues the segment on the stream of a handle.

    Raises:
        RuntimeError: the segment cannot be captured, or cannot run in a conditional body.
        Exception: any type that an inference library raises during capture.
    """
    captured = _capture(enqueue)
    try:
        [_, count] = check_status(cuda.cuGraphGetNodes(captured))
        [nodes, _] = check_status(cuda.cuGraphGetNodes(captured, count))
        types = {node_type for node in nodes for node_type in check_status(cuda.cuGraphNodeGetType(node))}
        if refused := sorted(node_type.name for node_type in types if node_type not in BODY_NODE_TYPES):
            raise RuntimeError(f"its graph has nodes of type {', '.join(refused)}")
        graph = GraphDefinition()
        check_status(cuda.cuGraphAddChildGraphNode(graph.handle, None, 0, captured))  # a copy
    finally:
        check_status(cuda.cuGraphDestroy(captured))
    return graph


def check_status(result: tuple[Any, ...]) -> list[Any]:
    """Return the values of a driver call without its status.

    Raises:
        RuntimeError: the status is an error.
    """
    status, *values = result
    if status != cuda.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver returned {status.name}")
    return values


def _capture(enqueue: Callable[[int], None]) -> Any:
    """Return the driver's graph of enqueued work; other threads may run frames meanwhile."""
    stream, mode = GpuStream(), cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    with _garbage_collection_paused():
        check_status(cuda.cuStreamBeginCapture(stream.handle, mode))
        try:
            enqueue(stream.handle)
        finally:
            result = cuda.cuStreamEndCapture(stream.handle)
    [captured] = check_status(result)
    return captured


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
