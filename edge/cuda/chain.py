"""One slot's work on the GPU: preprocessing, then segment after segment, each followed by its exit's decision."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from cuda.core.graph import GraphDefinition
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import TensorSpec
from edge.cuda.base import ACTIVATIONS, DeviceEngine, decision_tensors
from edge.cuda.kernel_params import EXIT, PREDICTION, preprocess_params_sizes, write_exits, write_preprocess_params
from edge.cuda.kernels import Kernels, Launch
from edge.cuda.memory import Memory
from edge.cuda.stream import GpuStream
from edge.decision import NEVER
from edge.frames.base import Frame
from edge.frames.preprocess import ArrayPreprocess


class Chain:
    """Memory and stream for frames of one size and format, and the segments bound to them.

    Attributes:
        exits: Number of exits.
        stream: Stream that everything runs on.
        segments: Each enqueues a segment on the stream of a handle.
        frame: Pinned memory for the next frame; None for networks that read arrays.
        predictions: Decision of each exit; valid when the stream is synchronised, up to the first that is final.
    """

    def __init__(
        self, chain: ChainSpec, engines: Sequence[DeviceEngine], kernels: Kernels, frame: Frame, *, uploads: bool
    ) -> None:
        """Allocate all memory.

        Args:
            chain: The segments.
            engines: Their engines.
            kernels: The kernels for preprocessing and decisions.
            frame: A frame of the size and format to allocate for.
            uploads: Copy frames to the GPU, which shares no memory with the host.
        """
        self.exits, self.stream, self.segments = chain.exits, GpuStream(), list[Callable[[int], None]]()
        self._spec, self._engines, self._kernels, self._tensors = chain, engines, kernels, tensor_specs(chain)
        sizes = {name: spec.sample_nbytes for name, spec in self._tensors.items()}
        is_image = chain.input.kind == "image"
        inputs = {name: sizes[name] for name in threshold_names(chain)}
        inputs |= {"frame": frame.pixels.size} if is_image else {tensors.IMAGE: sizes[tensors.IMAGE]}
        constants = {"exits": chain.exits * EXIT.itemsize} | (preprocess_params_sizes(chain.input) if is_image else {})
        workspace = {name: size for name, size in sizes.items() if name not in inputs}
        workspace[ACTIVATIONS] = max(engine.activation_bytes for engine in engines)
        outputs = {"predictions": chain.exits * PREDICTION.itemsize}
        try:
            self._memory = Memory(inputs | constants | outputs, (inputs if uploads else {}) | constants | workspace)
        except BaseException:
            self.stream.close()
            raise
        self._inputs = self._memory.upload(inputs) if uploads else None
        self._constants = constants
        self._thresholds = [self._memory.view(name, np.float32) for name in threshold_names(chain)]
        self.predictions = self._memory.view("predictions", PREDICTION)
        self.frame: Frame | None = None
        self._image: NDArray[np.float32] | None = None
        if is_image:
            self.frame = Frame(self._memory.view("frame", np.uint8, frame.pixels.shape), frame.format)
        else:
            self._image = self._memory.view(tensors.IMAGE, np.float32, chain.input.shape)
            self._preprocess_array = ArrayPreprocess(chain.input)

    def bind(self, frame: Frame) -> None:
        """Upload the constants, bind the segments, and run each once on a frame: libraries initialise then.

        Raises:
            EngineError: an engine refuses an address.
        """
        write_exits(self._memory, self._spec)
        if self.frame is not None:
            write_preprocess_params(self._memory, frame, self._spec.input)
        self.stream.upload(self._memory.upload(self._constants))
        self.segments = [engine.bind(self._memory.addresses) for engine in self._engines]
        self.write(frame, np.full(self.exits - 1, NEVER, dtype=np.float32))
        for index in range(self.exits):
            self.enqueue(index)
        self.stream.synchronize()

    def write(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Write a frame and its thresholds into pinned memory, and clear the exits' flags."""
        self.predictions["is_final"] = 0
        if self._image is not None:
            self._preprocess_array(frame, self._image)
        elif self.frame is not None and frame.pixels is not self.frame.pixels:
            np.copyto(self.frame.pixels, frame.pixels)
        self.set_thresholds(thresholds)

    def set_thresholds(self, thresholds: NDArray[np.float32]) -> None:
        """Write thresholds into pinned memory."""
        for buffer, value in zip(self._thresholds, thresholds, strict=True):
            buffer[0] = value

    def enqueue(self, index: int) -> None:
        """Enqueue a segment and its exit's decision; before the first segment, the input."""
        if index == 0 and self._inputs is not None:
            self.stream.upload(self._inputs)
        if index == 0 and self.frame is not None:
            self._preprocess().on(self.stream.core)
        self.segments[index](self.stream.handle)
        self.decision(index).on(self.stream.core)

    def add_input(self, graph: GraphDefinition) -> Any:
        """Add the upload and preprocessing of a frame to an empty graph; return the last node, or the graph."""
        node: Any = graph
        if (copy := self._inputs) is not None:
            node = node.memcpy(copy.address, copy.source.ctypes.data, copy.source.nbytes)
        return node if self.frame is None else self._preprocess().after(node)

    def decision(self, index: int, condition: Any = None) -> Launch:
        """Return the decision of a segment's exit, which sets a graph's condition if one is given."""
        addresses = self._memory.addresses
        exit_ = addresses["exits"] + index * EXIT.itemsize
        return self._kernels.decide(exit_, addresses["predictions"] + index * PREDICTION.itemsize, condition=condition)

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return copies of the tensors; the stream must be synchronised. Those of segments not run are stale."""
        decided = {name for segment in self._spec.segments for name in decision_tensors(segment.exit_index)}
        specs = [spec for spec in self._tensors.values() if spec.name not in decided]
        copies = {spec.name: self._memory.download(spec.name, spec.sample_shape, spec.dtype) for spec in specs}
        for segment, prediction in zip(self._spec.segments, self.predictions.copy(), strict=True):
            copies[tensors.confidence(segment.exit_index)] = prediction["confidence"].reshape(1)
            copies[tensors.label(segment.exit_index)] = prediction["label_index"].reshape(1)
        return copies

    def close(self) -> None:
        """Wait for started work, and release stream and memory while the GPU's context is current. Idempotent."""
        self.stream.close()
        self.frame = self._image = self._inputs = None
        self.predictions, self._thresholds, self.segments = np.zeros(self.exits, dtype=PREDICTION), [], []
        self._memory.close()

    def _preprocess(self) -> Launch:
        addresses = self._memory.addresses
        return self._kernels.preprocess(
            addresses["preprocess_params"], addresses[tensors.IMAGE], self._spec.input.shape
        )


def tensor_specs(chain: ChainSpec) -> dict[str, TensorSpec]:
    """Return the tensors of all segments by name."""
    return {spec.name: spec for segment in chain.segments for spec in (*segment.inputs, *segment.outputs)}


def threshold_names(chain: ChainSpec) -> list[str]:
    """Return the name of each early exit's threshold."""
    return [tensors.threshold(segment.exit_index) for segment in chain.segments[:-1]]
