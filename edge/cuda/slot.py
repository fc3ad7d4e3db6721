"""A slot on the GPU: one frame in flight, with a stream, memory and graphs of its own."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pycuda.driver as driver
from cuda.core import Stream
from cuda.core.graph import Graph
from numpy.typing import NDArray

from edge.console import say
from edge.cuda.chain import Chain, On
from edge.cuda.graph import one_exit, whole_chain
from edge.cuda.runtime import Runtime
from edge.errors import EngineError
from edge.preprocess import Frame, check_picture
from edge.protocols import Prediction

if TYPE_CHECKING:
    from edge.classifier import Classifier


class CudaSlot:
    """One frame's way through the GPU; frames of another shape than the one before take new memory.

    Attributes:
        frame: The frame to classify next; a source that writes into it spares a copy.
        syncs: How often the host waited for the GPU so far.
    """

    def __init__(self, classifier: "Classifier", runtime: Runtime) -> None:
        """Take a stream; memory is taken when the first frame says how much."""
        self.frame: Frame | None = None
        self.syncs = 0
        self._classifier, self._runtime = classifier, runtime
        self._loading = runtime.context.calling("sending a frame")
        self._inferring = runtime.context.calling("waiting for an answer")
        self._preparing = runtime.context.calling("preparing for frames")
        self._chain: Chain | None = None
        self._shape: tuple[int, ...] = ()
        self._run: _GraphRun | _StepwiseRun | None = None
        with self._preparing:
            self._stream = driver.Stream()

    @property
    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Copies of every tensor of the chain by name, batch 1. Those of segments that did not run are stale."""
        assert self._chain is not None, "tensors before a frame was loaded"  # noqa: S101 - our own order
        with self._inferring:
            return self._chain.tensors()

    def load(self) -> None:
        """Send `frame` with the thresholds in force and start; this waits for nothing."""
        assert self.frame is not None, "load() before a frame was captured"  # noqa: S101 - our own pipeline's order
        if self._chain is None or self.frame.shape != self._shape:
            self._prepare(self.frame)
        assert self._chain is not None and self._run is not None  # noqa: S101, PT018
        self._chain.write(self.frame, self._classifier.thresholds)
        if self._chain.frame is not None:
            self.frame = self._chain.frame
        with self._loading:
            self._run.start()

    def infer(self) -> Prediction:
        """Wait until an exit has answered."""
        assert self._chain is not None and self._run is not None  # noqa: S101, PT018
        with self._inferring:
            self.syncs += self._run.finish()
        [(label, confidence, probability, exit_index, _)] = self._chain.answer.tolist()
        return Prediction(label, confidence, exit_index, probability)

    def close(self) -> None:
        """Free graphs and memory; may be called twice."""
        if self._chain is None:
            return
        with self._preparing:
            self._stream.synchronize()
            if self._run is not None:
                self._run.close()
            self._chain.close()
        self._chain = self._run = None

    def _prepare(self, frame: Frame) -> None:
        """Take memory for frames of this shape, run everything once, and record it."""
        one, runtime = self._classifier, self._runtime
        if one.input_spec.kind == "image":
            check_picture(frame)
        self.close()
        with self._preparing:
            chain = Chain(
                one.input_spec,
                one.precision,
                one.engines,
                runtime.kernels,
                frame.shape,
                uploads=not runtime.context.is_integrated,
            )
            try:
                chain.write(frame, np.full(chain.exits - 1, 2, dtype=np.float32))
                self._run = _prepared(chain, self._stream, runtime)
            except BaseException:
                chain.close()
                raise
        self._chain, self._shape = chain, frame.shape


class _GraphRun:
    """The chain as one graph: a launch, a wait."""

    def __init__(self, chain: Chain, stream: driver.Stream) -> None:
        self._graph, self._stream = whole_chain(chain, stream), stream
        self._on = Stream.from_handle(stream.handle)
        self._graph.upload(self._on)

    def start(self) -> None:
        self._graph.launch(self._on)

    def finish(self) -> int:
        self._stream.synchronize()
        return 1

    def close(self) -> None:
        self._graph.close()


class _StepwiseRun:
    """A graph for each segment where it can be captured; the host looks at each answer."""

    def __init__(self, chain: Chain, stream: driver.Stream) -> None:
        self._chain, self._stream = chain, stream
        self._on = Stream.from_handle(stream.handle)
        self._graphs: list[Graph] = []
        self._steps = [self._step(index) for index in range(chain.exits)]

    def start(self) -> None:
        self._steps[0]()

    def finish(self) -> int:
        index = 0
        while True:
            self._stream.synchronize()
            if self._chain.answer["is_final"][0]:
                return index + 1
            index += 1
            self._steps[index]()

    def close(self) -> None:
        for graph in self._graphs:
            graph.close()

    def _step(self, index: int) -> Callable[[], None]:
        try:
            graph = one_exit(self._chain, self._stream, index)
        except Exception:  # a library that cannot be captured is called each time instead
            return lambda: _enqueue(self._chain, self._stream, self._on, index)
        self._graphs.append(graph)
        return lambda: graph.launch(self._on)


def _enqueue(chain: Chain, stream: driver.Stream, on: Stream, index: int) -> None:
    target = On(on, int(stream.handle))
    if index == 0:
        chain.enqueue_input(target, stream)
    chain.enqueue_exit(target, index)


def _prepared(chain: Chain, stream: driver.Stream, runtime: Runtime) -> "_GraphRun | _StepwiseRun":
    """Run every segment once uncaptured, record the chain, and see that it says the same in one graph."""
    on = Stream.from_handle(stream.handle)
    for index in range(chain.exits):
        _enqueue(chain, stream, on, index)
    stream.synchronize()
    expected = chain.answer.copy()
    if runtime.level == "stepwise":
        return _StepwiseRun(chain, stream)
    try:
        run = _GraphRun(chain, stream)
    except Exception as error:  # whatever driver and library raise where a segment cannot be captured
        say(f"the GPU decides nothing itself, exits are looked at one by one: {error}")
        return _StepwiseRun(chain, stream)
    run.start()
    run.finish()
    if chain.answer.tobytes() != expected.tobytes():
        raise EngineError(
            f"in one graph the chain answers {chain.answer[0]}, step by step {expected[0]}; "
            "report this with the GPU, its driver and the bundle"
        )
    return run
