"""Executors of a chain: the whole chain as one graph, or stepwise, with a wait after each exit."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
import pycuda.driver as driver
from cuda.core import Stream
from cuda.core.graph import Graph

from edge.cuda.chain import Chain, LaunchTarget
from edge.cuda.graph import capture_step
from edge.decision import NEVER


class Executor(Protocol):
    """A chain prepared for repeated execution."""

    def start(self) -> None:
        """Start on the frame and thresholds in pinned memory, without waiting."""

    def finish(self) -> int:
        """Wait until an exit answers; return the number of waits."""

    def close(self) -> None:
        """Release the graphs. Idempotent."""


class GraphExecutor:
    """The chain in one graph: one launch, one wait."""

    def __init__(self, graph: Graph, stream: driver.Stream) -> None:
        """Upload the graph."""
        self._graph, self._stream = graph, stream
        self._launch_stream = Stream.from_handle(stream.handle)
        self._graph.upload(self._launch_stream)

    def start(self) -> None:
        """Launch the graph."""
        self._graph.launch(self._launch_stream)

    def finish(self) -> int:
        """Wait until an exit answers; return the number of waits."""
        self._stream.synchronize()
        return 1

    def close(self) -> None:
        """Release the graph. Idempotent."""
        self._graph.close()


class StepwiseExecutor:
    """A graph for each segment that can be captured; the host checks each exit."""

    def __init__(self, chain: Chain, stream: driver.Stream, capturable: Sequence[bool]) -> None:
        """Capture the capturable segments; the others are enqueued for each frame."""
        self._chain, self._stream = chain, stream
        launch_stream = Stream.from_handle(stream.handle)
        self._graphs = [
            capture_step(chain, stream, k) if is_capturable else None for k, is_capturable in enumerate(capturable)
        ]
        self._steps = [
            partial(enqueue_step, chain, stream, k) if graph is None else partial(graph.launch, launch_stream)
            for k, graph in enumerate(self._graphs)
        ]

    def start(self) -> None:
        """Start the first segment."""
        self.step(0)

    def step(self, index: int) -> None:
        """Start one segment; the previous segment is done."""
        self._steps[index]()

    def finish(self) -> int:
        """Wait for each segment until an exit answers; return the number of waits."""
        for index in range(len(self._steps)):
            if index:
                self.step(index)
            self._stream.synchronize()
            if self._chain.prediction["is_final"][0]:
                break
        return index + 1

    def close(self) -> None:
        """Release the graphs. Idempotent."""
        for graph in self._graphs:
            if graph is not None:
                graph.close()


def enqueue_step(chain: Chain, stream: driver.Stream, index: int) -> None:
    """Enqueue one segment and its exit's result on a stream; before the first segment, the input."""
    target = LaunchTarget(Stream.from_handle(stream.handle), int(stream.handle))
    chain.enqueue_step(target, stream, index)


def diff_outputs(executor: Executor, reference: Executor, chain: Chain) -> str:
    """Return how predictions differ between two executors, with the last and the first exit forced; empty if equal."""
    for threshold in (NEVER, 0.0):
        chain.set_thresholds(np.full(chain.exits - 1, threshold, dtype=np.float32))
        predictions = []
        for candidate in (executor, reference):
            chain.prediction[:] = 0
            candidate.start()
            candidate.finish()
            predictions.append(chain.prediction[0].copy())
        actual, expected = predictions
        same = all(actual[name] == expected[name] for name in ("label_index", "exit_index", "is_final"))
        close = all(
            np.allclose(actual[name], expected[name], atol=1e-3, equal_nan=True)
            for name in ("confidence", "probability")
        )
        if not same or not close:
            return f"{actual} instead of {expected}"
    return ""
