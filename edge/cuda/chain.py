"""One slot's work on the GPU: preprocessing, then segment after segment, each followed by its exit's result.

No method waits. Work is enqueued on a stream, or captured from the stream into a graph.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pycuda.driver as driver
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.cuda.base import DeviceEngine
from edge.cuda.kernel_params import (
    PREDICTION,
    exit_outputs_name,
    exit_outputs_sizes,
    preprocess_params_sizes,
    write_exit_outputs,
    write_preprocess_params,
)
from edge.cuda.kernels import Kernels
from edge.cuda.memory import Buffers
from edge.frames.base import Frame
from edge.frames.preprocess import ArrayPreprocess


class LaunchTarget(NamedTuple):
    """Stream to enqueue on, or graph to capture into."""

    target: Any
    """cuda.core's stream, or its builder of a graph that is captured from a stream."""
    handle: int
    """Handle of the stream."""


class Chain:
    """Buffers for frames of one size and format, and the segments bound to them.

    Attributes:
        exits: Number of exits.
        frame: Pinned memory for the next frame; None for networks that read arrays.
        prediction: Result of the last exit that ran; valid when the stream is synchronised.
    """

    def __init__(
        self,
        chain: ChainSpec,
        engines: Sequence[DeviceEngine],
        kernels: Kernels,
        frame: Frame,
        *,
        uploads: bool,
    ) -> None:
        """Allocate all memory and bind the segments.

        Args:
            chain: The segments.
            engines: Their engines.
            kernels: The kernels for preprocessing and exit results.
            frame: A frame of the size and format to allocate for.
            uploads: Copy frames to the GPU, which shares no memory with the host.
        """
        self.exits = chain.exits
        self._spec, self._kernels = chain.input, kernels
        self._tensors = {spec.name: spec for segment in chain.segments for spec in (*segment.inputs, *segment.outputs)}
        threshold_names = [tensors.threshold(segment.exit_index) for segment in chain.segments[:-1]]
        self._buffers = self._allocate(chain, frame, threshold_names, uploads=uploads)
        self._addresses = self._buffers.addresses
        self._thresholds = [self._buffers.view(name, np.float32) for name in threshold_names]
        self.prediction = self._buffers.view("prediction", PREDICTION)
        self.frame: Frame | None = None
        self._image: NDArray[np.float32] | None = None
        if chain.input.kind == "image":
            self.frame = Frame(self._buffers.view("frame", np.uint8, frame.pixels.shape), frame.format)
        else:
            self._image = self._buffers.view(tensors.IMAGE, np.float32, chain.input.shape)
            self._preprocess_array = ArrayPreprocess(chain.input)
        try:
            if chain.input.kind == "image":
                write_preprocess_params(self._buffers, frame, chain.input)
            write_exit_outputs(self._buffers, chain)
            self._enqueue = [engine.bind(self._addresses) for engine in engines]
        except BaseException:
            self.close()
            raise

    def _allocate(self, chain: ChainSpec, frame: Frame, threshold_names: Sequence[str], *, uploads: bool) -> Buffers:
        sizes = {name: spec.sample_nbytes for name, spec in self._tensors.items()}
        inputs, constants = {name: sizes[name] for name in threshold_names}, exit_outputs_sizes(chain)
        if chain.input.kind == "image":
            inputs["frame"] = frame.pixels.size
            constants |= preprocess_params_sizes(chain.input)
        else:
            inputs[tensors.IMAGE] = sizes[tensors.IMAGE]
        return Buffers(
            inputs=inputs,
            constants=constants,
            workspace={name: size for name, size in sizes.items() if name not in inputs},
            outputs={"prediction": PREDICTION.itemsize},
            uploads=uploads,
        )

    def write(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Write a frame and its thresholds into pinned memory."""
        if self._image is not None:
            self._preprocess_array(frame, self._image)
        elif self.frame is not None and frame.pixels is not self.frame.pixels:
            np.copyto(self.frame.pixels, frame.pixels)
        self.set_thresholds(thresholds)

    def set_thresholds(self, thresholds: NDArray[np.float32]) -> None:
        """Write thresholds into pinned memory."""
        for buffer, value in zip(self._thresholds, thresholds, strict=True):
            buffer[0] = value

    def enqueue_constants(self, stream: driver.Stream) -> None:
        """Enqueue the upload of the constants, before anything else."""
        self._buffers.upload_constants(stream)

    def enqueue_step(self, target: LaunchTarget, stream: driver.Stream, index: int) -> None:
        """Enqueue a segment and its exit's result; before the first segment, the input."""
        if index == 0:
            self.enqueue_input(target, stream)
        self.enqueue_exit(target, index)

    def enqueue_input(self, target: LaunchTarget, stream: driver.Stream) -> None:
        """Enqueue the upload of frame and thresholds, and preprocessing."""
        self._buffers.upload_inputs(stream)
        if self.frame is not None:
            params, image = self._addresses["preprocess_params"], self._addresses[tensors.IMAGE]
            self._kernels.preprocess(target.target, params, image, self._spec.shape)

    def enqueue_exit(self, target: LaunchTarget, index: int, condition: Any = None) -> None:
        """Enqueue a segment and its exit's result, which sets the graph's condition if one is given."""
        self.enqueue_segment(target, index)
        exit_outputs, prediction = self._addresses[exit_outputs_name(index)], self._addresses["prediction"]
        if condition is None:
            self._kernels.write_prediction(target.target, exit_outputs, prediction)
        else:
            self._kernels.write_prediction_and_condition(target.target, condition, exit_outputs, prediction)

    def enqueue_segment(self, target: LaunchTarget, index: int) -> None:
        """Enqueue a segment alone."""
        self._enqueue[index](target.handle)

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return copies of all tensors; the stream must be synchronised. Those of segments not run are stale."""
        return {
            name: self._buffers.download(name, spec.sample_shape, spec.dtype) for name, spec in self._tensors.items()
        }

    def close(self) -> None:
        """Release the memory while the GPU's context is current. Idempotent."""
        self.frame = self._image = None
        self.prediction, self._thresholds = np.zeros(1, dtype=PREDICTION), []
        self._buffers.close()
