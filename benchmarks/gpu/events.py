"""What a frame takes by the GPU's own clock: CUDA events before its first launch and right after its last."""

from collections.abc import Sequence

import pycuda.driver as driver
from cuda.core.graph import Graph

from benchmarks.gpu.ways import Answer, Answering, Way
from edge.cuda.chain import Chain
from edge.cuda.executors import GraphRun, StepwiseRun
from edge.cuda.runtime import Runtime
from edge.frames.base import Frame


class Stopwatch:
    """Two events, for runs that take turns."""

    def __init__(self, runtime: Runtime) -> None:
        """Make the events."""
        self._calling = runtime.context.activate("timing with CUDA events")
        with self._calling:
            self._before, self._after = driver.Event(), driver.Event()

    def start(self, stream: driver.Stream) -> None:
        """Record the event before."""
        self._before.record(stream)

    def stop(self, stream: driver.Stream) -> None:
        """Record the event after; where that is done again, the last time counts."""
        self._after.record(stream)

    def us(self) -> float:
        """Return microseconds between the two, when the stream is done."""
        with self._calling:
            return 1e3 * float(self._after.time_since(self._before))

    def timing(self, answering: Answering) -> Way:
        """Return a way timed by this watch, whose run must start and stop it."""

        def way(frame: Frame) -> tuple[float, Answer]:
            answer = answering(frame)
            return self.us(), answer

        return way


class WatchedGraph(GraphRun):
    """A graph between two events."""

    def __init__(self, graph: Graph, stream: driver.Stream, watch: Stopwatch) -> None:
        """Make ready to launch it."""
        super().__init__(graph, stream)
        self._watch = watch

    def start(self) -> None:
        """Launch the graph."""
        self._watch.start(self._stream)
        super().start()
        self._watch.stop(self._stream)


class WatchedSteps(StepwiseRun):
    """Segments with an event before the first and after each: while the host looks at an answer, time goes on."""

    def __init__(self, chain: Chain, stream: driver.Stream, capturable: Sequence[bool], watch: Stopwatch) -> None:
        """Record the segments."""
        super().__init__(chain, stream, capturable)
        self._watch = watch

    def step(self, index: int) -> None:
        """Start one segment."""
        if index == 0:
            self._watch.start(self._stream)
        super().step(index)
        self._watch.stop(self._stream)
