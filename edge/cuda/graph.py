"""CUDA graphs: the whole chain in one, each next segment the body of a condition, or a graph for each segment."""

from collections.abc import Callable
from contextlib import suppress

import pycuda.driver as driver
from cuda.core import Stream
from cuda.core.graph import (
    ChildGraphNode,
    ConditionalNode,
    EmptyNode,
    Graph,
    GraphBuilder,
    GraphDefinition,
    KernelNode,
    MemcpyNode,
    MemsetNode,
)

from edge.cuda.chain import Chain, On
from edge.errors import EngineError

ALLOWED = (KernelNode, MemcpyNode, MemsetNode, EmptyNode, ChildGraphNode, ConditionalNode)
"""What CUDA lets be in the body of a condition."""


def whole_chain(chain: Chain, stream: driver.Stream) -> Graph:
    """Return the chain as one graph: a launch and a wait for a frame, whichever exit it takes.

    Every segment must have run once before, on this stream: libraries allocate at their first run.

    Raises:
        EngineError: a segment does what no body may do.
    """

    def fill(builder: GraphBuilder) -> None:
        chain.enqueue_input(_on(builder), stream)
        _exits_from(builder, chain, 0)

    return captured(stream, fill)


def captured(stream: driver.Stream, fill: Callable[[GraphBuilder], None]) -> Graph:
    """Return what `fill` enqueues as a graph; whatever happens, the stream is left as it was."""
    builder = Stream.from_handle(stream.handle).create_graph_builder()
    try:
        _build(builder, fill)
        return builder.complete()
    finally:
        builder.close()


def one_exit(chain: Chain, stream: driver.Stream, index: int) -> Graph:
    """Return one segment and its answer as a graph; before the first, the input."""

    def fill(builder: GraphBuilder) -> None:
        if index == 0:
            chain.enqueue_input(_on(builder), stream)
        chain.enqueue_exit(_on(builder), index)

    return captured(stream, fill)


def _exits_from(builder: GraphBuilder, chain: Chain, index: int) -> None:
    """Capture the segments from one on, each but the first in the body of a condition that the one before it sets."""
    if index == chain.exits - 1:
        chain.enqueue_exit(_on(builder), index)
        return
    condition = builder.create_condition(default_value=0)
    chain.enqueue_exit(_on(builder), index, condition)
    body = builder.if_then(condition)
    try:
        _build(body, lambda inner: _exits_from(inner, chain, index + 1))
        _check_body(body.graph_definition, index + 1)
    finally:
        body.close()


def _build(builder: GraphBuilder, fill: Callable[[GraphBuilder], None]) -> None:
    builder.begin_building("thread_local")
    try:
        fill(builder)
    except BaseException:
        with suppress(Exception):  # what went wrong has spoilt the capture, which must end all the same
            builder.end_building()
        raise
    builder.end_building()


def _check_body(body: GraphDefinition, index: int) -> None:
    wrong = sorted({type(node).__name__ for node in body.nodes() if not isinstance(node, ALLOWED)})
    if wrong:
        raise EngineError(
            f"segment {index} puts {', '.join(wrong)} into its graph, which CUDA does not run on condition"
        )


def _on(builder: GraphBuilder) -> On:
    return On(builder, int(builder.stream.handle))
