"""Test of the driver with a chain of our kernels alone: capture, embedded graphs and nested conditional nodes."""

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import InputSpec, SegmentSpec, TensorSpec
from edge.decision import NEVER
from edge.frames.base import Frame, PixelFormat

if TYPE_CHECKING:  # the CUDA modules are imported where there is a GPU
    from edge.cuda.kernels import Kernels
    from edge.cuda.runtime import Runtime
    from edge.cuda.slot import Mode

EXITS = 3
"""The fewest exits that nest conditional nodes."""
FRAME = Frame(np.zeros((1, 1, 1), np.float32), PixelFormat.ARRAY)
"""The frame that the chain reads."""


class CopyEngine:
    """A segment that copies the image, a single 0, to the logits; see `edge.cuda.base.DeviceEngine`."""

    activation_bytes, sync = 0, None

    def __init__(self, kernels: "Kernels", exit_index: int) -> None:
        """Store the arguments."""
        self._kernels, self._logits = kernels, tensors.logits(exit_index)

    def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
        """Bind device addresses."""
        from cuda.core import Stream, launch

        image = addresses[tensors.IMAGE]
        config, kernel, arguments = self._kernels.gather(image, image, 1, 4, addresses[self._logits])  # row 0
        return lambda stream: launch(Stream.from_handle(stream), config, kernel, *arguments)

    def bind_batch(self, addresses: Mapping[str, int]) -> Callable[[int, int], None]:
        """Refuse batches."""
        raise NotImplementedError


def chain_unsupported_reason(runtime: "Runtime", mode: "Mode") -> str:
    """Return the reason why a chain of three exits does not run in a mode, each exit forced; empty if it does."""
    from edge.cuda.slot import CudaSlot

    engines = [CopyEngine(runtime.kernels, k) for k in range(EXITS)]
    with closing(CudaSlot(_chain_spec(), engines, runtime, mode)) as slot:
        if slot.graph_unsupported_reason:
            return slot.graph_unsupported_reason
        for exit_index in range(EXITS):
            slot.start(FRAME, np.where(np.arange(EXITS - 1) < exit_index, NEVER, 0).astype(np.float32))
            syncs, taken = slot.syncs, slot.result().exit_index
            waits, expected = slot.syncs - syncs, 1 if mode == "graph" else exit_index + 1
            if taken != exit_index:
                return f"exit {taken} answered instead of {exit_index}"
            if waits != expected:
                return f"{waits} waits for exit {exit_index} instead of {expected}"
    return ""


def _chain_spec() -> ChainSpec:
    """Return a chain of three exits with one class each, so that every confidence is 1."""

    def segment(k: int) -> SegmentSpec:
        threshold = TensorSpec(tensors.threshold(k), "float32", (1,))
        inputs = (TensorSpec(tensors.IMAGE, "float32", (None, 1, 1, 1)), threshold)
        return SegmentSpec("", inputs, (TensorSpec(tensors.logits(k), "float32", (None, 1)),), 0.0, k, (), ())

    spec = InputSpec("array", None, 1, 1, 1, (0.0,), (1.0,))
    return ChainSpec(spec, ("",), tuple(map(segment, range(EXITS))), (1.0,) * EXITS)
