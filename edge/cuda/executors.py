"""Two ways to run a chain again and again: the GPU deciding on exits itself, and the host looking at each."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
import pycuda.driver as driver
from cuda.core import Stream
from cuda.core.graph import Graph

from edge.cuda.chain import Chain, On
from edge.cuda.graph import one_exit
from edge.decision import NEVER


class Run(Protocol):
    """A recorded chain."""

    def start(self) -> None:
        """Start with what was written, and wait for nothing."""

    def finish(self) -> int:
        """Wait until an exit has answered; return how often that took a wait."""

    def close(self) -> None:
        """Free what was recorded; may be called twice."""


class GraphRun:
    """The chain in one graph: a launch, a wait."""

    def __init__(self, graph: Graph, stream: driver.Stream) -> None:
        """Make ready to launch it."""
        self._graph, self._stream = graph, stream
        self._on = Stream.from_handle(stream.handle)
        self._graph.upload(self._on)

    def start(self) -> None:
        """Launch the graph."""
        self._graph.launch(self._on)

    def finish(self) -> int:
        """Wait for the answer; return how often that took a wait."""
        self._stream.synchronize()
        return 1

    def close(self) -> None:
        """Free the graph; may be called twice."""
        self._graph.close()


class StepwiseRun:
    """A graph for each segment that can be captured; the host looks at each answer."""

    def __init__(self, chain: Chain, stream: driver.Stream, capturable: Sequence[bool]) -> None:
        """Record the segments that can be."""
        self._chain, self._stream = chain, stream
        on = Stream.from_handle(stream.handle)
        self._graphs = [one_exit(chain, stream, k) if may else None for k, may in enumerate(capturable)]
        self._steps = [
            partial(enqueue, chain, stream, k) if graph is None else partial(graph.launch, on)
            for k, graph in enumerate(self._graphs)
        ]

    def start(self) -> None:
        """Start the first segment."""
        self.step(0)

    def step(self, index: int) -> None:
        """Start one segment; the one before it has answered."""
        self._steps[index]()

    def finish(self) -> int:
        """Wait for answers until one is final; return how many waits that took."""
        for index in range(len(self._steps)):
            if index:
                self.step(index)
            self._stream.synchronize()
            if self._chain.answer["is_final"][0]:
                break
        return index + 1

    def close(self) -> None:
        """Free the graphs; may be called twice."""
        for graph in self._graphs:
            if graph is not None:
                graph.close()


def enqueue(chain: Chain, stream: driver.Stream, index: int) -> None:
    """Put one segment and its answer on a stream; before the first, the input."""
    chain.enqueue_step(On(Stream.from_handle(stream.handle), int(stream.handle)), stream, index)


def diff_outputs(one: Run, other: Run, chain: Chain) -> str:
    """Return in what two ways of running a chain differ, for the first exit taken and for the last; or nothing."""
    for threshold in (NEVER, 0.0):
        chain.set_thresholds(np.full(chain.exits - 1, threshold, dtype=np.float32))
        answers = []
        for run in (one, other):
            chain.answer[:] = 0
            run.start()
            run.finish()
            answers.append(chain.answer[0].copy())
        first, second = answers
        same = all(first[name] == second[name] for name in ("label", "exit_index", "is_final"))
        close = all(np.allclose(first[n], second[n], atol=1e-3, equal_nan=True) for n in ("confidence", "probability"))
        if not same or not close:
            return f"{first} instead of {second}"
    return ""
