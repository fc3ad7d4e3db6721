"""CUDA graphs: one graph per segment, or the whole chain with each later segment in a conditional body."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import pycuda.driver as driver
from cuda.bindings import driver as cuda
from cuda.core import Device, Stream
from cuda.core.graph import Graph, GraphBuilder

from edge.cuda.chain import Chain, LaunchTarget

NODE_TYPES = cuda.CUgraphNodeType
BODY_NODE_TYPES = (
    NODE_TYPES.CU_GRAPH_NODE_TYPE_KERNEL,
    NODE_TYPES.CU_GRAPH_NODE_TYPE_MEMCPY,
    NODE_TYPES.CU_GRAPH_NODE_TYPE_MEMSET,
    NODE_TYPES.CU_GRAPH_NODE_TYPE_EMPTY,
    NODE_TYPES.CU_GRAPH_NODE_TYPE_GRAPH,
)
"""Nodes that CUDA allows in a conditional body."""
CAPTURE_MODE = "relaxed"
"""Lets other threads run frames during a capture."""
CAPTURE_LOCK = Lock()
"""Captures take turns: each pauses garbage collection in the whole process."""


def capture_chain(chain: Chain, stream: driver.Stream) -> Graph:
    """Return the chain as one graph: one launch and one wait per frame, whichever exit answers.

    Every segment must have run once before, and `capture_error` must have returned an empty string for it.
    """

    def fill(builder: GraphBuilder) -> None:
        chain.enqueue_input(_target(builder), stream)
        _capture_exits(builder, chain, 0)

    return capture_graph(stream, fill)


def capture_step(chain: Chain, stream: driver.Stream, index: int) -> Graph:
    """Return one segment and its exit's result as a graph; before the first segment, the input."""
    return capture_graph(stream, lambda builder: chain.enqueue_step(_target(builder), stream, index))


def capture_graph(stream: driver.Stream, fill: Callable[[GraphBuilder], None]) -> Graph:
    """Capture the work that `fill` enqueues."""
    Device(0).set_current()  # cuda.core requires this in each thread, whichever context is current
    borrowed = Stream.from_handle(stream.handle)
    _ = borrowed.context  # drivers before 12.5 cannot return it during capture
    builder = borrowed.create_graph_builder()
    with _garbage_collection_paused():
        _build(builder, fill)
    graph = builder.complete()
    builder.close()
    return graph


def capture_error(stream: driver.Stream, enqueue: Callable[[], None]) -> str:
    """Return the reason why enqueued work cannot be captured into a conditional body; empty if it can.

    The capture is made with the driver: a GraphBuilder whose capture was invalidated may crash when it is closed.
    """
    problem = ""
    with _garbage_collection_paused():
        check_status(cuda.cuStreamBeginCapture(stream.handle, cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        try:
            enqueue()
        except Exception as error:  # of any type that an inference library raises during capture
            problem = str(error)
        status, graph = cuda.cuStreamEndCapture(stream.handle)
    if status != cuda.CUresult.CUDA_SUCCESS:
        return problem or f"its capture ended with {status.name}"
    try:
        [_, count] = check_status(cuda.cuGraphGetNodes(graph))
        [nodes, _] = check_status(cuda.cuGraphGetNodes(graph, count))
        types = {node_type for node in nodes for node_type in check_status(cuda.cuGraphNodeGetType(node))}
    finally:
        check_status(cuda.cuGraphDestroy(graph))
    refused = sorted(node_type.name for node_type in types if node_type not in BODY_NODE_TYPES)
    return problem or (f"its graph has nodes of type {', '.join(refused)}" if refused else "")


def check_status(result: tuple[Any, ...]) -> list[Any]:
    """Return the values of a driver call without its status.

    Raises:
        RuntimeError: the status is an error.
    """
    status, *values = result
    if status != cuda.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver returned {status.name}")
    return values


def _capture_exits(builder: GraphBuilder, chain: Chain, index: int) -> None:
    """Capture the segments from `index` on, each later segment in a conditional body."""
    if index == chain.exits - 1:
        chain.enqueue_exit(_target(builder), index)
        return
    condition = builder.create_condition(default_value=0)
    chain.enqueue_exit(_target(builder), index, condition)
    body = builder.if_then(condition)
    _build(body, lambda inner: _capture_exits(inner, chain, index + 1))
    body.close()


def _build(builder: GraphBuilder, fill: Callable[[GraphBuilder], None]) -> None:
    builder.begin_building(CAPTURE_MODE)
    fill(builder)
    builder.end_building()


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection: memory, streams and graphs freed during a capture invalidate it."""
    with CAPTURE_LOCK:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()


def _target(builder: GraphBuilder) -> LaunchTarget:
    return LaunchTarget(builder, int(builder.stream.handle))
