"""A slot on the GPU: one frame in flight, with a stream, memory and graphs of its own."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pycuda.driver as driver
from numpy.typing import NDArray

from edge.bundle.chain import ChainSpec
from edge.cuda.base import DeviceEngine
from edge.cuda.chain import Chain
from edge.cuda.executors import GraphRun, Run, StepwiseRun, diff_outputs, enqueue
from edge.cuda.graph import capture_error, whole_chain
from edge.cuda.memory import NON_BLOCKING, waited_for
from edge.cuda.runtime import Runtime
from edge.decision import NEVER, Prediction
from edge.frames.base import Frame
from edge.frames.preprocess import check_picture

log = logging.getLogger(__name__)


class _Ready(NamedTuple):
    """What frames of one kind travel in."""

    kind: tuple[Any, ...]
    stream: driver.Stream
    chain: Chain
    run: Run


class CudaSlot:
    """One frame's way through the GPU; frames of another kind than the one before take new memory.

    Attributes:
        syncs: How often the host waited for the GPU so far.
    """

    def __init__(self, chain: ChainSpec, engines: Sequence[DeviceEngine], runtime: Runtime) -> None:
        """Take nothing yet: the first frame says how much memory it takes."""
        self.syncs = 0
        self._spec, self._engines, self._runtime = chain, engines, runtime
        self._loading = runtime.context.activate("sending a frame")
        self._inferring = runtime.context.activate("waiting for an answer")
        self._preparing = runtime.context.activate("preparing for frames")
        self._ready: _Ready | None = None

    @property
    def buffer(self) -> Frame | None:
        """Pinned memory for the next frame; None before the first one, and for networks that read arrays."""
        return None if self._ready is None else self._ready.chain.frame

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return copies of every tensor of the chain by name, batch 1. Those of segments that did not run are stale."""
        assert self._ready is not None, "tensors() before start()"  # noqa: S101 - our own order
        with self._inferring:
            return self._ready.chain.tensors()

    def start(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Send a frame with the thresholds and start; this waits for nothing."""
        ready = self._ready_for(frame)
        ready.chain.write(frame, thresholds)
        with self._loading:
            ready.run.start()

    def result(self) -> Prediction:
        """Wait until an exit has answered."""
        assert self._ready is not None, "result() before start()"  # noqa: S101 - our own pipeline's order
        with self._inferring:
            self.syncs += self._ready.run.finish()
        [(label, confidence, probability, exit_index, _)] = self._ready.chain.answer.tolist()
        return Prediction(self._spec.labels[label], label, probability, exit_index, confidence)

    def close(self) -> None:
        """Free graphs, memory and stream; may be called twice."""
        if self._ready is None:
            return
        with self._preparing:
            ready, self._ready = self._ready, None
            waited_for(ready.stream)
            ready.run.close()
            ready.chain.close()
            del ready  # while the context is current: that is when pinned memory and streams are freed

    def record(self, chain: Chain, stream: driver.Stream) -> Run:
        """Return how a chain, whose segments have all run once, is to be run from now on."""
        problems = [capture_error(stream, partial(enqueue, chain, stream, k)) for k in range(chain.exits)]
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
        if problem := diff_outputs(graph, stepwise, chain):
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
            log.warning(text)

    def _ready_for(self, frame: Frame) -> _Ready:
        """Return what a frame travels in, made anew where the one before was of another kind."""
        if self._ready is not None and self._ready.kind == self._kind(frame):
            return self._ready
        return self._prepare(frame)

    def _kind(self, frame: Frame) -> tuple[Any, ...]:
        """Return what frames must have in common to travel in the same memory; arrays are made alike first."""
        if self._spec.input.kind == "array":
            return ()
        return frame.format, frame.pixels.shape, frame.pixels.dtype

    def _prepare(self, frame: Frame) -> _Ready:
        """Take memory for frames of this kind, run everything once, and record it."""
        if self._spec.input.kind == "image":
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
        runtime = self._runtime
        return Chain(self._spec, self._engines, runtime.kernels, frame, uploads=not runtime.context.is_integrated)
