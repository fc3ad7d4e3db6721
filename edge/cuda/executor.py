"""Execution of a chain on frames of one size and format: stepwise with a wait after each exit, or as one graph."""

from collections.abc import Callable, Sequence
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
    """A chain with its input. Each step is started once the one before is done and its exit has not answered.

    Attributes:
        chain: The chain.
        frames: Its input.
        graph_unsupported_reason: Reason why the chain cannot be one graph; empty if there is none.
    """

    def __init__(self, chain: Chain, frames: FrameInput) -> None:
        """Enqueue the operations of each segment as a step."""
        self.chain, self.frames, self.graph_unsupported_reason = chain, frames, ""
        self._graph: Graph | None = None
        operations = [self._operations(index) for index in range(chain.exits)]
        self._stepwise: list[Callable[[], None]] = [partial(_enqueue, step, chain.stream) for step in operations]
        self._steps = self._stepwise

    def use_graph(self, definition: GraphDefinition) -> None:
        """Launch a graph, such as `chain_graph`, as the only step from now on.

        Raises:
            Exception: any type that the driver's libraries raise for unsupported graphs.
        """
        self._graph = definition.instantiate()
        self._graph.upload(self.chain.stream.core)  # so that the first launch takes as long as the second
        self._steps = [partial(self._graph.launch, self.chain.stream.core)]

    def close_graph(self) -> None:
        """Wait for started work, and execute stepwise from now on."""
        self.chain.stream.drain()
        if self._graph is not None:
            self._graph.close()
        self._graph, self._steps = None, self._stepwise

    def chain_graph(self) -> GraphDefinition:
        """Return the chain: each segment but the first is in a body that the exit before opens unless it answers.

        Raises:
            EngineError: a segment cannot be captured.
            Exception: any type that the driver's libraries raise for unsupported graphs.
        """
        definition = GraphDefinition()
        node: Any = definition
        for index in range(self.chain.exits):
            is_last = index == self.chain.exits - 1
            condition = None if is_last else definition.create_condition(default_value=0)
            for operation in self._operations(index, condition):
                node = operation.after(node)
            if condition is not None:
                node = node.if_then(condition).then
        return definition

    def write(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Write a frame and its thresholds into pinned memory."""
        self.frames.write(frame)
        self.chain.reset(thresholds)

    def start(self) -> None:
        """Start on the frame and thresholds in pinned memory, without waiting."""
        self.step(0)

    def step(self, index: int) -> None:
        """Start one step."""
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

    def force_exits(self) -> NDArray[np.void]:
        """Return the predictions for the frame in pinned memory, shape (exits, exits): in row k, exit k is forced."""
        rows, exits = [], np.arange(self.chain.exits)
        for exit_index in exits:
            self.chain.predictions[:] = 0
            self.chain.reset(np.where(exits[:-1] < exit_index, NEVER, 0).astype(np.float32))
            self.start()
            self.finish()
            rows.append(self.chain.predictions.copy())
        return np.stack(rows)

    def close(self) -> None:
        """Wait for started work, and release graph and input while the GPU's context is current. Idempotent."""
        self.close_graph()
        self._steps = self._stepwise = []
        self.frames.close()

    def _operations(self, index: int, condition: Any = None) -> list[Operation]:
        """Return a segment with its decision, which sets a condition if one is given; before the first, the input."""
        input_operations = () if index else self.frames.operations
        return [*input_operations, self.chain.segments[index], self.chain.decision(index, condition)]


def _enqueue(operations: Sequence[Operation], stream: GpuStream) -> None:
    for operation in operations:
        operation.on(stream)


def diff_predictions(actual: NDArray[np.void], expected: NDArray[np.void]) -> str:
    """Return the first row of predictions that differs, with the expected one; empty if all are equal."""
    for row, other in zip(actual, expected, strict=True):
        exact = all(np.array_equal(row[name], other[name]) for name in ("label_index", "exit_index", "is_final"))
        scores = ("confidence", "probability")
        if not exact or not all(np.allclose(row[n], other[n], atol=1e-3, equal_nan=True) for n in scores):
            return f"{row} instead of {other}"
    return ""
