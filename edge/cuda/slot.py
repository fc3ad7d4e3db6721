"""A slot on the GPU: stream, memory and graphs of one in-flight frame."""

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
from edge.cuda.executors import Executor, GraphExecutor, StepwiseExecutor, diff_outputs, enqueue_step
from edge.cuda.graph import capture_chain, capture_error
from edge.cuda.memory import NON_BLOCKING, synchronize_before_free
from edge.cuda.runtime import Runtime
from edge.decision import NEVER, Prediction
from edge.errors import EngineError
from edge.frames.base import Frame
from edge.frames.preprocess import check_image

log = logging.getLogger(__name__)


class FrameResources(NamedTuple):
    """Resources for frames of one size and format."""

    format_key: tuple[Any, ...]
    stream: driver.Stream
    chain: Chain
    executor: Executor


class CudaSlot:
    """One in-flight frame on the GPU. The first frame of another size or format replaces memory and graphs.

    Attributes:
        syncs: Number of waits for the GPU so far.
    """

    def __init__(self, chain: ChainSpec, engines: Sequence[DeviceEngine], runtime: Runtime) -> None:
        """Store the arguments; memory is allocated for the first frame, whose size decides."""
        self.syncs = 0
        self._spec, self._engines, self._runtime = chain, engines, runtime
        self._starting = runtime.context.activate("sending a frame")
        self._waiting = runtime.context.activate("waiting for a result")
        self._preparing = runtime.context.activate("preparing for frames")
        self._resources: FrameResources | None = None

    @property
    def buffer(self) -> Frame | None:
        """Pinned memory for the next frame; None before the first frame, and for networks that read arrays."""
        return None if self._resources is None else self._resources.chain.frame

    def start(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Send a frame with its thresholds and start the chain, without waiting."""
        resources = self._resources_for(frame)
        resources.chain.write(frame, thresholds)
        with self._starting:
            resources.executor.start()

    def result(self) -> Prediction:
        """Wait until an exit answers."""
        resources = self._started()
        with self._waiting:
            self.syncs += resources.executor.finish()
        [(label, probability, exit_index, confidence, _)] = resources.chain.prediction.tolist()
        return self._spec.prediction(label, probability, exit_index, confidence)

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return copies of every tensor of the chain by name, batch 1. Those of segments that did not run are stale."""
        resources = self._started()
        with self._waiting:
            return resources.chain.tensors()

    def close(self) -> None:
        """Release graphs, memory and stream. Idempotent."""
        if self._resources is None:
            return
        with self._preparing:
            resources, self._resources = self._resources, None
            synchronize_before_free(resources.stream)
            resources.executor.close()
            resources.chain.close()
            del resources  # pinned memory and streams are freed here, while the context is current

    def make_executor(self, chain: Chain, stream: driver.Stream) -> Executor:
        """Return the executor of a chain whose segments have all run once: a graph where supported, else stepwise."""
        problems = [capture_error(stream, partial(enqueue_step, chain, stream, k)) for k in range(chain.exits)]
        stepwise = StepwiseExecutor(chain, stream, [not problem for problem in problems])
        for k, problem in enumerate(problems):
            if problem:
                self._log_once(f"segment {k} cannot be captured into a CUDA graph", problem)
        if any(problems) or self._runtime.mode == "stepwise":
            return stepwise
        try:
            graph = GraphExecutor(capture_chain(chain, stream), stream)
        except Exception as error:  # of any type that drivers and libraries raise for unsupported graphs
            self._log_once("the chain cannot be captured into one CUDA graph", str(error))
            return stepwise
        if problem := diff_outputs(graph, stepwise, chain):
            self._log_once("the chain as one CUDA graph predicts differently from stepwise execution", problem)
            graph.close()
            return stepwise
        stepwise.close()
        return graph

    def _log_once(self, fact: str, reason: str) -> None:
        """Log the reason for stepwise execution, once for all slots."""
        message = f"{fact}, so the host checks each exit: {reason}"
        if message not in self._runtime.logged:
            self._runtime.logged.add(message)
            log.warning(message)

    def _started(self) -> FrameResources:
        if self._resources is None:
            raise EngineError("this slot has no frame; call start() first")
        return self._resources

    def _resources_for(self, frame: Frame) -> FrameResources:
        """Return the resources for a frame; those of the previous frame if its size and format are the same."""
        if self._resources is not None and self._resources.format_key == self._format_key(frame):
            return self._resources
        return self._prepare(frame)

    def _format_key(self, frame: Frame) -> tuple[Any, ...]:
        """Return the properties that frames must share to use the same memory; arrays are all converted to float32."""
        if self._spec.input.kind == "array":
            return ()
        return frame.format, frame.pixels.shape, frame.pixels.dtype

    def _prepare(self, frame: Frame) -> FrameResources:
        """Allocate for frames of this size and format, run every segment once, and make the executor."""
        if self._spec.input.kind == "image":
            check_image(frame)
        self.close()
        with self._preparing:
            stream, chain = driver.Stream(NON_BLOCKING), self._allocate_chain(frame)
            try:
                chain.write(frame, np.full(chain.exits - 1, NEVER, dtype=np.float32))
                chain.enqueue_constants(stream)
                for index in range(chain.exits):
                    enqueue_step(chain, stream, index)
                stream.synchronize()
                executor = self.make_executor(chain, stream)
                self._resources = FrameResources(self._format_key(frame), stream, chain, executor)
            except BaseException:
                synchronize_before_free(stream)
                chain.close()
                raise
        return self._resources

    def _allocate_chain(self, frame: Frame) -> Chain:
        runtime = self._runtime
        return Chain(self._spec, self._engines, runtime.kernels, frame, uploads=not runtime.context.is_integrated)
