"""The ways a chain of segments is compared in: one graph, step by step, and bare, for each exit."""

from collections.abc import Callable, Sequence
from functools import partial

import pycuda.driver as driver
from cuda.core.graph import Graph, GraphBuilder

from edge.cuda.chain import Chain, On
from edge.cuda.executors import Run
from edge.cuda.graph import captured, whole_chain
from edge.cuda.runtime import Runtime
from edge.cuda.slot import CudaSlot
from edge.inference.classifier import Classifier

Record = Callable[[Chain, driver.Stream], Run]
"""How a chain is made ready to be run again and again."""


class RecordedSlot(CudaSlot):
    """A slot that runs its chain in the way it is told."""

    def __init__(self, classifier: Classifier, runtime: Runtime, way: Record) -> None:
        """Say which way."""
        super().__init__(classifier, runtime)
        self._way = way

    def record(self, chain: Chain, stream: driver.Stream) -> Run:
        """Return the chain recorded in this way."""
        return self._way(chain, stream)


def bare(last: int) -> str:
    """Return what the way is called that runs segments up to one and nothing between them."""
    return f"bare 0..{last}"


def recorded_ways(
    exits: int,
    run_graph: Callable[[Graph, driver.Stream], Run],
    run_steps: Callable[[Chain, driver.Stream, Sequence[bool]], Run],
) -> dict[str, Record]:
    """Return every way by name; with events or without is for the runs to know."""
    ways: dict[str, Record] = {
        "graph": lambda chain, stream: run_graph(whole_chain(chain, stream), stream),
        "stepwise": lambda chain, stream: run_steps(chain, stream, [True] * exits),
    }
    for last in range(exits):
        ways[bare(last)] = partial(_run_bare, run_graph, last)
    return ways


def _run_bare(run_graph: Callable[[Graph, driver.Stream], Run], last: int, chain: Chain, stream: driver.Stream) -> Run:
    """Return segments in a row as a graph, whatever their exits say, with one answer noted."""

    def fill(builder: GraphBuilder) -> None:
        on = On(builder, int(builder.stream.handle))
        chain.enqueue_input(on, stream)
        for k in range(last):
            chain.enqueue_segment(on, k)
        chain.enqueue_exit(on, last)

    return run_graph(captured(stream, fill), stream)
