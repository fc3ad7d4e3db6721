"""A slot on the GPU: stream, memory and graphs of one in-flight frame."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Literal

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
CAPTURE_ATTEMPTS = 3
"""A synchronisation of the whole GPU by another library's thread may spoil a capture, but seldom the next."""


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
        for label, probability, exit_index, confidence, is_final in executor.chain.predictions.tolist():
            if is_final:
                return self._spec.prediction(label, probability, exit_index, confidence)
        raise EngineError("no exit answered this frame; restart the process, and run `edge doctor`")

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
            del executor  # pinned memory is freed here, while the context is current

    def make_executor(self, chain: Chain) -> Executor:
        """Return the executor of a bound chain: the chain as one graph, else a graph per segment, else none.

        Graphs are used only where they predict the same as segments enqueued without one.
        """
        segments = [self._capture(chain, index) for index in range(chain.exits)]
        captured = [segment for segment in segments if segment is not None]
        executor = None
        if self._mode == "graph" and len(captured) == chain.exits:
            fact = "the chain cannot be one CUDA graph, so the host checks each exit"
            executor = self._make_checked(fact, chain, [partial(chain_graph, chain, captured)])
        if executor is None:
            steps = [
                None if segment is None else partial(step_graph, chain, index, segment)
                for index, segment in enumerate(segments)
            ]
            fact = "segments cannot be CUDA graphs, so they are enqueued for each frame"
            executor = self._make_checked(fact, chain, steps)
        return executor or _without_graphs(chain)

    def _capture(self, chain: Chain, index: int) -> GraphDefinition | None:
        """Return a captured segment; None if it cannot be captured, which is logged."""
        for attempt in range(1, CAPTURE_ATTEMPTS + 1):
            try:
                return capture(chain.segments[index])
            except Exception as error:  # of any type that drivers and libraries raise
                if attempt == CAPTURE_ATTEMPTS:
                    fact = f"segment {index} cannot be captured into a CUDA graph, so the host checks each exit"
                    self._log_once(f"{fact}: {error}")
        return None

    def _make_checked(self, fact: str, chain: Chain, steps: Sequence[Callable[[], Graph] | None]) -> Executor | None:
        """Return the executor of the graphs that are made; None if one fails or predicts differently: it is logged."""
        try:
            with ExitStack() as stack:
                graphs = [None if make is None else stack.enter_context(closing(make())) for make in steps]
                executor = Executor(chain, graphs)
                if difference := diff_outputs(executor, _without_graphs(chain)):
                    raise EngineError(f"predicted {difference}")
                stack.pop_all()
                return executor
        except Exception as error:  # of any type that drivers and libraries raise for unsupported graphs
            self._log_once(f"{fact}: {error}")
            return None

    def _log_once(self, message: str) -> None:
        """Log a reason for slower execution, once for all slots."""
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


def _without_graphs(chain: Chain) -> Executor:
    """Return the executor that enqueues each segment."""
    return Executor(chain, [None] * chain.exits)
