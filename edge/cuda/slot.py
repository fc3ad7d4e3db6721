"""A slot on the GPU: stream, memory and graphs of one in-flight frame."""

import logging
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import InputSpec
from edge.cuda.autotune import Tuning, autotune
from edge.cuda.base import DeviceEngine, Sync
from edge.cuda.chain import Chain
from edge.cuda.executor import Executor, diff_predictions
from edge.cuda.frame_input import FrameInput, Transfer
from edge.cuda.runtime import Runtime
from edge.decision import Prediction
from edge.errors import EngineError
from edge.frames.base import Frame, PixelFormat
from edge.frames.preprocess import check_image

log = logging.getLogger(__name__)
Mode = Literal["graph", "stepwise"]
"""`graph`: one launch and one wait per frame. `stepwise`: the host checks each exit."""


class CudaSlot:
    """One in-flight frame on the GPU.

    Attributes:
        syncs: Number of waits for the GPU so far.
    """

    def __init__(
        self, spec: ChainSpec, engines: Sequence[DeviceEngine], runtime: Runtime, mode: Mode = "graph"
    ) -> None:
        """Bind and run the segments, and prepare for frames of the network's size, which captures the segments.

        Raises:
            EngineError: the GPU has too little memory, or an engine fails.
        """
        self.syncs = 0
        self._spec, self._runtime, self._mode = spec, runtime, mode
        self._syncs: Sequence[Sync] = [engines[0].sync] if engines[0].sync else get_args(Sync)
        self._tunings = runtime.tunings.setdefault(engines[0], {})
        self._starting, self._waiting = runtime.activate("sending a frame"), runtime.activate("waiting for a result")
        self._executor: Executor | None = None
        self._is_started = False
        self._format_key: tuple[Any, ...] = ()
        """Properties that frames share to use the same memory; arrays are all converted to float32."""
        with runtime.prepare("preparing for frames"):
            self._chain = Chain(spec, engines, runtime.kernels)
        try:
            self.prepare(_blank_frame(spec.input))
        except BaseException:
            self.close()
            raise

    @property
    def buffer(self) -> Frame | None:
        """Pinned memory for the next frame; None for networks that read arrays, and when closed."""
        return None if self._executor is None else self._executor.frames.buffer

    @property
    def graph_unsupported_reason(self) -> str:
        """Reason why the host checks each exit of the last frame although it need not; empty if there is none."""
        return "" if self._executor is None else self._executor.graph_unsupported_reason

    @property
    def tuning(self) -> Tuning:
        """Transfer and sync of frames, with the times of the others."""
        tuning: Tuning = self._tunings[self._format_key]
        return tuning

    def prepare(self, frame: Frame) -> None:
        """Allocate memory and make graphs for frames of this size and format, unless that is done.

        Raises:
            SourceError: the frame has another type or format than the network reads.
            EngineError: the GPU has too little memory or fails, or the slot was closed.
        """
        is_image = self._spec.input.kind == "image"
        format_key = (frame.format, frame.pixels.shape, frame.pixels.dtype) if is_image else ()
        if self._executor is not None and self._format_key == format_key:
            return
        if is_image:
            check_image(frame)
        if self._chain.is_closed:
            raise EngineError("this slot was closed; open another")
        with self._runtime.prepare("preparing for frames"):
            self._release_executor()
            self._executor = self._make_executor(frame, format_key)
        self._format_key = format_key

    def start(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Send a frame with its thresholds and start the chain, without waiting."""
        self.prepare(frame)
        assert self._executor is not None, "prepared"  # noqa: S101 - for mypy
        self._is_started = False
        self._executor.write(frame, thresholds)
        with self._starting:
            self._executor.start()
        self._is_started = True

    def result(self) -> Prediction:
        """Wait until an exit answers."""
        executor = self._started()
        with self._waiting:
            self.syncs += executor.finish()
        for label, probability, exit_index, confidence, is_final in self._chain.predictions.tolist():
            if is_final:
                return self._spec.prediction(label, probability, exit_index, confidence)
        raise EngineError("no exit answered this frame; restart the process, and run `edge doctor`")

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return copies of the chain's tensors by name, batch 1. Those of segments that did not run are stale."""
        self._started()
        with self._waiting:
            return self._chain.tensors()

    def close(self) -> None:
        """Release graphs, memory and stream. Idempotent."""
        if not self._chain.is_closed:
            with self._runtime.prepare("closing a slot"):
                self._release_executor()
                self._chain.close()

    def open_executor(self, frame: Frame, transfer: Transfer) -> Executor:
        """Return an executor for frames like this one, which is in its memory; the caller closes it."""
        executor = Executor(self._chain, FrameInput(frame, self._spec.input, self._chain, transfer))
        try:
            executor.frames.write(frame)
            if self._mode == "graph":
                self._use_graph(executor)
        except BaseException:
            executor.close()
            raise
        return executor

    def _use_graph(self, executor: Executor) -> None:
        """Let an executor launch its chain as one graph, if that predicts the same as the stepwise chain."""
        expected = executor.force_exits()
        try:
            executor.use_graph(executor.chain_graph())
            if difference := diff_predictions(executor.force_exits(), expected):
                raise EngineError(f"predicted {difference}")
        except Exception as error:  # of any type that drivers and libraries raise for unsupported graphs
            executor.close_graph()
            executor.graph_unsupported_reason = str(error)
            _warn_once(f"the chain cannot be one CUDA graph, so the host checks each exit: {error}")

    def _make_executor(self, frame: Frame, format_key: tuple[Any, ...]) -> Executor:
        """Return the executor for frames like this one, with the fastest transfer and wait."""
        tuning, open_executor = self._tunings.get(format_key), partial(self.open_executor, frame)
        if tuning is None:
            may_map = self._spec.input.kind == "image" and self._runtime.is_integrated
            transfers: list[Transfer] = ["copied", "mapped"] if may_map else ["copied"]
            executor, tuning = autotune(transfers, self._syncs, open_executor)
            self._tunings[format_key] = tuning
        else:
            executor = open_executor(tuning.transfer)
        self._chain.stream.set_sync(tuning.sync)
        return executor

    def _release_executor(self) -> None:
        if self._executor is not None:
            self._executor.close()
        self._executor, self._is_started = None, False

    def _started(self) -> Executor:
        if self._executor is None or not self._is_started:
            raise EngineError("this slot has no frame; call start() first")
        return self._executor


@cache
def _warn_once(message: str) -> None:
    """Log a reason for slower execution, once for all slots."""
    log.warning(message)


def _blank_frame(spec: InputSpec) -> Frame:
    """Return a frame of the network's size."""
    if spec.kind == "array":
        return Frame(np.zeros(spec.shape, dtype=np.float32), PixelFormat.ARRAY)
    return Frame(np.zeros((spec.height, spec.width, 3), dtype=np.uint8), PixelFormat.BGR)
