"""Execution of a chain on frames of one size and format: as one graph, or stepwise with a wait after each exit."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from cuda.core.graph import Graph, GraphDefinition
from numpy.typing import NDArray

from edge.cuda.chain import Chain
from edge.cuda.frame_input import FrameInput
from edge.cuda.operations import Operation
from edge.cuda.stream import GpuStream
from edge.decision import NEVER
from edge.frames.base import Frame


class Executor:
    """Steps that run in sequence until an exit answers: graphs of one or more segments, or segments without graphs.

    Attributes:
        chain: The chain.
        frames: Its input.
    """

    def __init__(self, chain: Chain, frames: FrameInput, graphs: Sequence[range] = ()) -> None:
        """Make a graph of each range of segments; without any, each segment is enqueued for each frame.

        Raises:
            EngineError: a segment cannot be captured.
            Exception: any type that the driver's libraries raise for unsupported graphs.
        """
        self.chain, self.frames = chain, frames
        self._steps = [partial(_enqueue, self._step_operations(index), chain.stream) for index in range(chain.exits)]
        with ExitStack() as stack:
            made = [self._make_graph(segments, stack) for segments in graphs]
            self._graphs = stack.pop_all()
        if made:
            self._steps = [partial(graph.launch, chain.stream.core) for graph in made]

    def write(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Write a frame and its thresholds into pinned memory."""
        self.frames.write(frame)
        self.chain.reset(thresholds)

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

    def close_graphs(self) -> None:
        """Wait for started work, and release the graphs. Idempotent."""
        self.chain.stream.drain()
        self._graphs.close()

    def close(self) -> None:
        """Release graphs and input while the GPU's context is current. Idempotent."""
        self.close_graphs()
        self._steps = []
        self.frames.close()

    def operations(self, index: int) -> list[Operation]:
        """Return the operations before a segment's decision: the segment, and before the first the input."""
        return [*(() if index else self.frames.operations), self.chain.segments[index]]

    def _step_operations(self, index: int, condition: Any = None) -> list[Operation]:
        return [*self.operations(index), self.chain.decision(index, condition)]

    def _make_graph(self, segments: range, stack: ExitStack) -> Graph:
        """Return consecutive segments as one graph: each after the first is in a body that the previous exit opens."""
        definition = GraphDefinition()
        node: Any = definition
        for index in segments:
            condition = None if index == segments[-1] else definition.create_condition(default_value=0)
            for operation in self._step_operations(index, condition):
                node = operation.after(node)
            if condition is not None:
                node = node.if_then(condition).then
        graph = definition.instantiate()
        stack.callback(graph.close)
        graph.upload(self.chain.stream.core)  # so that the first launch takes as long as the second
        return graph


def _enqueue(operations: Sequence[Operation], stream: GpuStream) -> None:
    for operation in operations:
        operation.on(stream)


def diff_outputs(executor: Executor, reference: Executor) -> str:
    """Return how predictions of a chain differ between two executors, with each exit forced; empty if equal."""
    chain = executor.chain
    for exit_index in range(chain.exits):
        results = []
        for candidate in (executor, reference):
            chain.predictions[:] = 0
            chain.reset(np.where(np.arange(chain.exits - 1) < exit_index, NEVER, 0).astype(np.float32))
            candidate.start()
            candidate.finish()
            results.append(chain.predictions.copy())
        actual, expected = results
        exact = all(np.array_equal(actual[name], expected[name]) for name in ("label_index", "exit_index", "is_final"))
        scores = ("confidence", "probability")
        if not exact or not all(np.allclose(actual[n], expected[n], atol=1e-3, equal_nan=True) for n in scores):
            return f"{actual} instead of {expected}"
    return ""
