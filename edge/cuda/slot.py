"""A slot on the GPU: one frame in flight, with a stream, memory and graphs of its own."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pycuda.driver as driver
from numpy.typing import NDArray

from edge.console import say
from edge.cuda.chain import Chain
from edge.cuda.graph import whole_chain, why_not_captured
from edge.cuda.memory import NON_BLOCKING, waited_for
from edge.cuda.runs import GraphRun, Run, StepwiseRun, enqueue, unlike
from edge.cuda.runtime import Runtime
from edge.decision import NEVER
from edge.preprocess import Frame, Nv12, check_picture
from edge.protocols import Prediction

if TYPE_CHECKING:
    from edge.classifier import Classifier


class _Ready(NamedTuple):
    """What frames of one kind travel in."""

    kind: tuple[Any, ...]
    stream: driver.Stream
    chain: Chain
    run: Run


class CudaSlot:
    """One frame's way through the GPU; frames of another kind than the one before take new memory.

    Attributes:
        frame: The frame to classify next; a source that writes into it spares a copy.
        syncs: How often the host waited for the GPU so far.
    """

    def __init__(self, classifier: "Classifier", runtime: Runtime) -> None:
        """Take nothing yet: the first frame says how much memory it takes."""
        self.frame: Frame | None = None
        self.syncs = 0
        self._classifier, self._runtime = classifier, runtime
        self._loading = runtime.context.calling("sending a frame")
        self._inferring = runtime.context.calling("waiting for an answer")
        self._preparing = runtime.context.calling("preparing for frames")
        self._ready: _Ready | None = None

    @property
    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Copies of every tensor of the chain by name, batch 1. Those of segments that did not run are stale."""
        assert self._ready is not None, "tensors before a frame was loaded"  # noqa: S101 - our own order
        with self._inferring:
            return self._ready.chain.tensors()

    def load(self) -> None:
        """Send `frame` with the thresholds in force and start; this waits for nothing."""
        assert self.frame is not None, "load() before a frame was captured"  # noqa: S101 - our own pipeline's order
        ready = self._ready_for(self.frame)
        ready.chain.write(self.frame, self._classifier.thresholds)
        if ready.chain.frame is not None:
            self.frame = ready.chain.frame
        with self._loading:
            ready.run.start()

    def infer(self) -> Prediction:
        """Wait until an exit has answered."""
        assert self._ready is not None, "infer() before load()"  # noqa: S101 - our own pipeline's order
        with self._inferring:
            self.syncs += self._ready.run.finish()
        [(label, confidence, probability, exit_index, _)] = self._ready.chain.answer.tolist()
        return Prediction(label, confidence, exit_index, probability)

    def close(self) -> None:
        """Free graphs, memory and stream; may be called twice."""
        if self._ready is None:
            return
        with self._preparing:
            ready, self._ready = self._ready, None
            own = ready.chain.frame
            if self.frame is not None and own is not None and np.may_share_memory(self.frame, own):
                self.frame = None
            del own
            waited_for(ready.stream)
            ready.run.close()
            ready.chain.close()
            del ready  # while the context is current: that is when pinned memory and streams are freed

    def record(self, chain: Chain, stream: driver.Stream) -> Run:
        """Return how a chain, whose segments have all run once, is to be run from now on."""
        problems = [why_not_captured(stream, partial(enqueue, chain, stream, k)) for k in range(chain.exits)]
        stepwise = StepwiseRun(chain, stream, [not problem for problem in problems])
        found = [(k, problem) for k, problem in enumerate(problems) if problem]
        if found or self._runtime.level == "stepwise":
            for k, problem in found:
                self._say(f"segment {k} cannot be part of a graph", problem)
            return stepwise
        try:
            graph = GraphRun(whole_chain(chain, stream), stream)
        except Exception as error:  # whatever driver and libraries raise of what they do not support
            self._say("the chain cannot be one graph", str(error))
            return stepwise
        if problem := unlike(graph, stepwise, chain):
            self._say("in one graph the chain answers otherwise", problem)
            graph.close()
            return stepwise
        stepwise.close()
        return graph

    def _say(self, what: str, why: str) -> None:
        """Say why the host looks at each exit, once for all slots."""
        text = f"{what}, so that the host looks at each exit: {why}"
        if text not in self._runtime.said:
            self._runtime.said.add(text)
            say(text)

    def _ready_for(self, frame: Frame) -> _Ready:
        """Return what a frame travels in, made anew where the one before was of another kind."""
        if self._ready is not None and self._ready.kind == self._kind(frame):
            return self._ready
        return self._prepare(frame)

    def _kind(self, frame: Frame) -> tuple[Any, ...]:
        """Return what frames must have in common to travel in the same memory; arrays are made alike first."""
        if self._classifier.input_spec.kind == "array":
            return ()
        return isinstance(frame, Nv12), frame.shape, frame.dtype

    def _prepare(self, frame: Frame) -> _Ready:
        """Take memory for frames of this kind, run everything once, and record it."""
        if self._classifier.input_spec.kind == "image":
            check_picture(frame)
        self.close()
        with self._preparing:
            stream, chain = driver.Stream(NON_BLOCKING), self._chain_for(frame)
            try:
                chain.write(frame, np.full(chain.exits - 1, NEVER, dtype=np.float32))
                chain.enqueue_constants(stream)
                for index in range(chain.exits):
                    enqueue(chain, stream, index)
                stream.synchronize()
                self._ready = _Ready(self._kind(frame), stream, chain, self.record(chain, stream))
            except BaseException:
                waited_for(stream)
                chain.close()
                raise
        return self._ready

    def _chain_for(self, frame: Frame) -> Chain:
        one, runtime = self._classifier, self._runtime
        return Chain(
            one.input_spec,
            one.precision,
            one.engines,
            runtime.kernels,
            frame,
            uploads=not runtime.context.is_integrated,
        )
