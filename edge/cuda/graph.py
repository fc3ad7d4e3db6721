"""CUDA graphs: the whole chain in one, each next segment the body of a condition, or a graph for each segment."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import pycuda.driver as driver
from cuda.bindings import driver as cuda
from cuda.core import Device, Stream
from cuda.core.graph import Graph, GraphBuilder

from edge.cuda.chain import Chain, On

KINDS = cuda.CUgraphNodeType
ALLOWED = (
    KINDS.CU_GRAPH_NODE_TYPE_KERNEL,
    KINDS.CU_GRAPH_NODE_TYPE_MEMCPY,
    KINDS.CU_GRAPH_NODE_TYPE_MEMSET,
    KINDS.CU_GRAPH_NODE_TYPE_EMPTY,
    KINDS.CU_GRAPH_NODE_TYPE_GRAPH,
)
"""What CUDA lets be in the body of a condition."""
MODE = "relaxed"
"""Other threads run frames of their own while one captures."""
CAPTURING = Lock()
"""One thread at a time: garbage collection, which is off meanwhile, is the whole process's."""


def whole_chain(chain: Chain, stream: driver.Stream) -> Graph:
    """Return the chain as one graph: a launch and a wait for a frame, whichever exit it takes.

    Every segment must have run once before, and have passed `why_not_captured`.
    """

    def fill(builder: GraphBuilder) -> None:
        chain.enqueue_input(_on(builder), stream)
        _exits_from(builder, chain, 0)

    return captured(stream, fill)


def one_exit(chain: Chain, stream: driver.Stream, index: int) -> Graph:
    """Return one segment and its answer as a graph; before the first, the input."""
    return captured(stream, lambda builder: chain.enqueue_step(_on(builder), stream, index))


def captured(stream: driver.Stream, fill: Callable[[GraphBuilder], None]) -> Graph:
    """Return what `fill` enqueues as a graph."""
    Device(0).set_current()  # cuda.core asks this of each thread, whatever context is current
    borrowed = Stream.from_handle(stream.handle)
    _ = borrowed.context  # drivers before 12.5 cannot be asked for it during capture
    builder = borrowed.create_graph_builder()
    with _no_garbage_collected():
        _build(builder, fill)
    graph = builder.complete()
    builder.close()
    return graph


def capture_error(stream: driver.Stream, enqueue: Callable[[], None]) -> str:
    """Return what keeps something from being captured into the body of a condition; nothing where it can be.

    Tried out by the driver itself: a GraphBuilder whose capture was spoilt may crash when it is taken apart.
    """
    problem = ""
    with _no_garbage_collected():
        checked(cuda.cuStreamBeginCapture(stream.handle, cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        try:
            enqueue()
        except Exception as error:  # whatever a library raises that does not like to be captured
            problem = str(error)
        status, graph = cuda.cuStreamEndCapture(stream.handle)
    if status != cuda.CUresult.CUDA_SUCCESS:
        return problem or f"its capture ended with {status.name}"
    try:
        [_, count] = checked(cuda.cuGraphGetNodes(graph))
        [nodes, _] = checked(cuda.cuGraphGetNodes(graph, count))
        kinds = {kind for node in nodes for kind in checked(cuda.cuGraphNodeGetType(node))}
    finally:
        checked(cuda.cuGraphDestroy(graph))
    wrong = sorted(kind.name for kind in kinds if kind not in ALLOWED)
    return problem or (f"it puts {', '.join(wrong)} into its graph" if wrong else "")


def _exits_from(builder: GraphBuilder, chain: Chain, index: int) -> None:
    """Capture the segments from one on, each but the first in the body of a condition that the one before it sets."""
    if index == chain.exits - 1:
        chain.enqueue_exit(_on(builder), index)
        return
    condition = builder.create_condition(default_value=0)
    chain.enqueue_exit(_on(builder), index, condition)
    body = builder.if_then(condition)
    _build(body, lambda inner: _exits_from(inner, chain, index + 1))
    body.close()


def _build(builder: GraphBuilder, fill: Callable[[GraphBuilder], None]) -> None:
    builder.begin_building(MODE)
    fill(builder)
    builder.end_building()


def checked(found: tuple[Any, ...]) -> list[Any]:
    """Return what a call of the driver gave, besides its status.

    Raises:
        RuntimeError: the status is an error.
    """
    status, *values = found
    if status != cuda.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver answered {status.name}")
    return values


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """Keep what is freed from being freed in the middle of a capture, which that would spoil."""
    with CAPTURING:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()


def _on(builder: GraphBuilder) -> On:
    return On(builder, int(builder.stream.handle))
