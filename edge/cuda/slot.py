"""A slot on the GPU: stream, memory and graphs of one in-flight frame."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from cuda.core.graph import Graph, GraphDefinition
from numpy.typing import NDArray

from edge.bundle.chain import ChainSpec
from edge.cuda.base import DeviceEngine
from edge.cuda.chain import Chain
from edge.cuda.executor import Executor, diff_outputs
from edge.cuda.graph import capture, chain_graph, step_graph
from edge.cuda.runtime import Runtime
from edge.decision import Prediction
from edge.errors import EngineError
from edge.frames.base import Frame
from edge.frames.preprocess import check_image

log = logging.getLogger(__name__)
Mode = Literal["graph", "stepwise"]
"""`graph`: one launch and one wait per frame. `stepwise`: the host checks each exit."""


class CapturedStep(NamedTuple):
    """A captured segment, and the graph that runs it with its exit's decision."""

    segment: GraphDefinition
    graph: Graph


class CudaSlot:
    """One in-flight frame on the GPU. The first frame of another size or format replaces memory and graphs.

    Attributes:
        syncs: Number of waits for the GPU so far.
    """

    def __init__(
        self, chain: ChainSpec, engines: Sequence[DeviceEngine], runtime: Runtime, mode: Mode = "graph"
    ) -> None:
        """Store the arguments; memory is allocated for the first frame, whose size decides."""
        self.syncs = 0
        self._spec, self._engines, self._runtime, self._mode = chain, engines, runtime, mode
        self._starting = runtime.context.activate("sending a frame")
        self._waiting = runtime.context.activate("waiting for a result")
        self._preparing = runtime.context.prepare("preparing for frames")
        self._executor: Executor | None = None
        self._format_key: tuple[Any, ...] = ()
        """Properties that frames share to use the same memory; arrays are all converted to float32."""

    @property
    def buffer(self) -> Frame | None:
        """Pinned memory for the next frame; None before the first frame, and for networks that read arrays."""
        return None if self._executor is None else self._executor.chain.frame

    def start(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Send a frame with its thresholds and start the chain, without waiting."""
        is_image = self._spec.input.kind == "image"
        format_key = (frame.format, frame.pixels.shape, frame.pixels.dtype) if is_image else ()
        if self._executor is None or self._format_key != format_key:
            self._prepare(frame)
            self._format_key = format_key
        executor = self._started()
        executor.chain.write(frame, thresholds)
        with self._starting:
            executor.start()

    def result(self) -> Prediction:
        """Wait until an exit answers."""
        executor = self._started()
        with self._waiting:
            self.syncs += executor.finish()
        rows = executor.chain.predictions.tolist()
        label, probability, exit_index, confidence, _ = next(row for row in rows if row[-1])  # the first that is final
        return self._spec.prediction(label, probability, exit_index, confidence)

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return copies of the chain's tensors by name, batch 1. Those of segments that did not run are stale."""
        executor = self._started()
        with self._waiting:
            return executor.chain.tensors()

    def close(self) -> None:
        """Release graphs, memory and stream. Idempotent."""
        if self._executor is None:
            return
        with self._preparing:
            executor, self._executor = self._executor, None
            executor.chain.close()
            executor.close()
            del executor  # pinned memory and streams are freed here, while the context is current

    def make_executor(self, chain: Chain) -> Executor:
        """Return the executor of a bound chain: a graph where supported and equal to stepwise execution, else that."""
        steps = [self._capture_step(chain, index) for index in range(chain.exits)]
        segments = [step.segment for step in steps if step is not None]
        fallback = Executor(chain, [step and step.graph for step in steps])
        if len(segments) < chain.exits or self._mode == "stepwise":
            return fallback
        try:
            graph = Executor(chain, [chain_graph(chain, segments)])
        except Exception as error:  # of any type that drivers and libraries raise for unsupported graphs
            self._log_once("the chain cannot be one CUDA graph", str(error))
            return fallback
        if problem := diff_outputs(graph, fallback):
            self._log_once("the chain as one CUDA graph predicts differently from stepwise execution", problem)
            graph.close()
            return fallback
        fallback.close()
        return graph

    def _capture_step(self, chain: Chain, index: int) -> CapturedStep | None:
        """Return a captured segment and its graph; None if it cannot be captured, which is logged."""
        try:
            segment = capture(chain.segments[index])
            return CapturedStep(segment, step_graph(chain, index, segment))
        except Exception as error:  # of any type that drivers and libraries raise
            self._log_once(f"segment {index} cannot be captured into a CUDA graph", str(error))
            return None

    def _log_once(self, fact: str, reason: str) -> None:
        """Log the reason for stepwise execution, once for all slots."""
        message = f"{fact}, so the host checks each exit: {reason}"
        if message not in self._runtime.logged:
            self._runtime.logged.add(message)
            log.warning(message)

    def _started(self) -> Executor:
        if self._executor is None:
            raise EngineError("this slot has no frame; call start() first")
        return self._executor

    def _prepare(self, frame: Frame) -> None:
        """Allocate for frames of this size and format, run every segment once, and make the executor."""
        if self._spec.input.kind == "image":
            check_image(frame)
        self.close()
        runtime = self._runtime
        with self._preparing:
            uploads = not runtime.context.is_integrated
            chain = Chain(self._spec, self._engines, runtime.kernels, frame, uploads=uploads)
            try:
                chain.bind(frame)
                self._executor = self.make_executor(chain)
            except BaseException:
                chain.close()
                raise
