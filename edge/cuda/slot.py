"""A slot on the GPU: stream, memory and graphs of one in-flight frame."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import InputSpec
from edge.cuda.autotune import Tuning, autotune
from edge.cuda.base import DeviceEngine
from edge.cuda.chain import Chain
from edge.cuda.executor import Executor, diff_outputs
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
            if format_key not in self._tunings:
                transfers: list[Transfer] = ["copied"]
                if is_image and self._runtime.is_integrated:
                    transfers.append("mapped")
                self._tunings[format_key] = autotune(transfers, partial(self._open_executor, frame))
            tuning = self._tunings[format_key]
            self._executor = self._open_executor(frame, tuning.transfer)
            self._chain.stream.set_sync(tuning.sync)
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

    def make_executor(self, frames: FrameInput) -> Executor:
        """Return an executor: the chain as one graph, else a graph per segment, else none.

        Graphs are used only where they predict the same as segments enqueued without one.
        """
        reference, exits = Executor(self._chain, frames), range(self._chain.exits)
        graphs = {
            "the chain cannot be one CUDA graph, so the host checks each exit": [exits],
            "segments cannot be CUDA graphs, so they are enqueued for each frame": [exits[k : k + 1] for k in exits],
        }
        for problem, ranges in [*graphs.items()][self._mode == "stepwise" :]:
            try:
                with ExitStack() as stack:
                    executor = Executor(self._chain, frames, ranges)
                    stack.callback(executor.close_graphs)
                    if difference := diff_outputs(executor, reference):
                        raise EngineError(f"predicted {difference}")
                    stack.pop_all()
                return executor
            except Exception as error:  # of any type that drivers and libraries raise for unsupported graphs
                self._log_once(f"{problem}: {error}")
        return reference

    def _open_executor(self, frame: Frame, transfer: Transfer) -> Executor:
        """Return an executor for frames like this one, which is in its memory."""
        frames = FrameInput(frame, self._spec.input, self._chain, transfer)
        try:
            frames.write(frame)
            return self.make_executor(frames)
        except BaseException:
            self._chain.stream.drain()
            frames.close()
            raise

    def _release_executor(self) -> None:
        if self._executor is not None:
            self._executor.close()
        self._executor, self._is_started = None, False

    def _log_once(self, message: str) -> None:
        """Log a reason for slower execution, once for all slots."""
        if message not in self._runtime.logged:
            self._runtime.logged.add(message)
            log.warning(message)

    def _started(self) -> Executor:
        if self._executor is None or not self._is_started:
            raise EngineError("this slot has no frame; call start() first")
        return self._executor


def _blank_frame(spec: InputSpec) -> Frame:
    """Return a frame of the network's size."""
    if spec.kind == "array":
        return Frame(np.zeros(spec.shape, dtype=np.float32), PixelFormat.ARRAY)
    return Frame(np.zeros((spec.height, spec.width, 3), dtype=np.uint8), PixelFormat.BGR)
