"""Execution of a prepared chain: as one graph, or stepwise with a wait after each exit."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from cuda.core.graph import Graph

from edge.cuda.chain import Chain
from edge.decision import NEVER


class Executor:
    """Steps that run in sequence until an exit answers; the graph of a whole chain is the only step.

    Attributes:
        chain: The chain that the steps run.
    """

    def __init__(self, chain: Chain, graphs: Sequence[Graph | None]) -> None:
        """Make a step of each graph. A step without one enqueues its segment for each frame."""
        self.chain, self._graphs = chain, [graph for graph in graphs if graph is not None]
        self._steps = [
            partial(chain.enqueue, index) if graph is None else partial(graph.launch, chain.stream.core)
            for index, graph in enumerate(graphs)
        ]

    def start(self) -> None:
        """Start on the frame and thresholds in pinned memory, without waiting."""
        self.step(0)

    def step(self, index: int) -> None:
        """Start one step; the previous step is done."""
        self._steps[index]()

    def finish(self) -> int:
        """Wait until an exit answers; return the number of waits."""
        for index in range(len(self._steps)):
            if index:
                self.step(index)
            self.chain.stream.synchronize()
            if self.chain.predictions["is_final"][index]:
                break
        return index + 1

    def close(self) -> None:
        """Release the graphs. Idempotent."""
        for graph in self._graphs:
            graph.close()


def diff_outputs(executor: Executor, reference: Executor) -> str:
    """Return how predictions of a chain differ between two executors, with each exit forced; empty if equal."""
    chain = executor.chain
    for exit_index in range(chain.exits):
        chain.set_thresholds(np.where(np.arange(chain.exits - 1) < exit_index, NEVER, 0).astype(np.float32))
        results = []
        for candidate in (executor, reference):
            chain.predictions[:] = 0
            candidate.start()
            candidate.finish()
            results.append(chain.predictions.copy())
        actual, expected = results
        exact = all(np.array_equal(actual[name], expected[name]) for name in ("label_index", "exit_index", "is_final"))
        scores = ("confidence", "probability")
        if not exact or not all(np.allclose(actual[n], expected[n], atol=1e-3, equal_nan=True) for n in scores):
            return f"{actual} instead of {expected}"
    return ""
