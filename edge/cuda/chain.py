"""A chain on the GPU: memory and stream of one slot, and the segments bound to them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import TensorSpec
from edge.cuda.base import ACTIVATIONS, DeviceEngine, decision_tensors
from edge.cuda.kernels import PREDICTION, Kernels, Launch
from edge.cuda.memory import Memory
from edge.cuda.operations import Segment
from edge.cuda.stream import GpuStream


class Chain:
    """Memory and stream of a slot, with the segments bound to them.

    Attributes:
        exits: Number of exits.
        kernels: The kernels.
        stream: Stream that everything runs on.
        segments: The segments in sequence.
        predictions: Decision of each exit; valid when the stream is synchronised, up to the first that is final.
        image: Address of the network's input.
    """

    def __init__(self, spec: ChainSpec, engines: Sequence[DeviceEngine], kernels: Kernels) -> None:
        """Allocate the memory, bind the segments, and run each once: libraries initialise then.

        Raises:
            EngineError: an engine refuses an address.
        """
        self.exits, self.kernels, self._spec = spec.exits, kernels, spec
        on_gpu = tensor_sizes(spec, engines)
        pinned = {name: on_gpu.pop(name) for name in threshold_names(spec)}
        pinned["predictions"] = spec.exits * PREDICTION.itemsize
        with ExitStack() as stack:
            self._memory = Memory(pinned, on_gpu)
            stack.callback(self._memory.close)
            self.stream = GpuStream()
            stack.callback(self.stream.close)
            bound = [engine.bind(self._memory.addresses) for engine in engines]
            self.segments = [Segment(index, enqueue) for index, enqueue in enumerate(bound)]
            for segment in self.segments:
                segment.on(self.stream)
            self.stream.synchronize()
            self._resources = stack.pop_all()
        self.image = self._memory.addresses[tensors.IMAGE]
        self.predictions = self._memory.view("predictions", PREDICTION)
        self._thresholds = [self._memory.view(name, np.float32) for name in threshold_names(spec)]

    def reset(self, thresholds: NDArray[np.float32]) -> None:
        """Write the thresholds of the next frame into pinned memory, and clear the exits' flags."""
        self.predictions["is_final"] = 0
        for buffer, value in zip(self._thresholds, thresholds, strict=True):
            buffer[0] = value

    def decision(self, index: int, condition: Any = None) -> Launch:
        """Return the decision of a segment's exit, which sets a graph's condition if one is given."""
        out = self._memory.addresses["predictions"] + index * PREDICTION.itemsize
        return decision(self.kernels, self._spec, self._memory.addresses, index, out, condition=condition)

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return copies of the tensors; the stream must be synchronised. Those of segments not run are stale."""
        decided = {name for segment in self._spec.segments for name in decision_tensors(segment.exit_index)}
        specs = [spec for spec in tensor_specs(self._spec) if spec.name not in decided]
        copies = {spec.name: self._memory.download(spec.name, spec.sample_shape, spec.dtype) for spec in specs}
        for segment, prediction in zip(self._spec.segments, self.predictions.copy(), strict=True):
            copies[tensors.confidence(segment.exit_index)] = prediction["confidence"].reshape(1)
            copies[tensors.label(segment.exit_index)] = prediction["label_index"].reshape(1)
        return copies

    @property
    def is_closed(self) -> bool:
        """True after `close`."""
        return not self.segments

    def close(self) -> None:
        """Wait for started work, and release stream and memory while the GPU's context is current. Idempotent."""
        self._resources.close()
        self.predictions, self._thresholds, self.segments = np.zeros(self.exits, dtype=PREDICTION), [], []


def decision(
    kernels: Kernels, spec: ChainSpec, addresses: Mapping[str, int], index: int, out: int, **options: Any
) -> Launch:
    """Return the decision of a segment's exit with `options` of `Kernels.decide`; the first segment has exit 0."""
    segment, is_last = spec.segments[index], index == spec.exits - 1
    logits = next(tensor for tensor in segment.outputs if tensor.name == tensors.logits(segment.exit_index))
    return kernels.decide(
        addresses[logits.name],
        0 if is_last else addresses[tensors.threshold(segment.exit_index)],
        out,
        classes=logits.shape[-1] or 0,
        exit_index=index,
        temperature=spec.temperatures[index],
        **options,
    )


def tensor_specs(spec: ChainSpec) -> list[TensorSpec]:
    """Return the tensors of all segments; a cut is an output and an input."""
    return [tensor for segment in spec.segments for tensor in (*segment.inputs, *segment.outputs)]


def tensor_sizes(spec: ChainSpec, engines: Sequence[DeviceEngine], rows: int = 1) -> dict[str, int]:
    """Return the bytes of each tensor for a number of samples, and of the memory that engines share."""
    sizes = {tensor.name: rows * tensor.sample_nbytes for tensor in tensor_specs(spec)}
    return sizes | {ACTIVATIONS: max(engine.activation_bytes for engine in engines)}


def threshold_names(spec: ChainSpec) -> list[str]:
    """Return the name of each early exit's threshold."""
    return [tensors.threshold(segment.exit_index) for segment in spec.segments[:-1]]
