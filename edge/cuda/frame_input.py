"""Memory for frames of one size and format, and the operations that make them the network's input."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import InputSpec
from edge.cuda.chain import Chain
from edge.cuda.memory import Memory
from edge.cuda.operations import Operation, Upload
from edge.cuda.preprocess_params import preprocess_params
from edge.frames.base import Frame
from edge.frames.preprocess import ArrayPreprocess, Preprocess

Transfer = Literal["mapped", "copied"]
"""The GPU reads images in the host's memory, or they are copied to its own first. Arrays are always copied."""


class FrameInput:
    """Pinned memory for a frame: an image, preprocessed on the GPU, or an array, normalised on the host.

    Attributes:
        buffer: The memory, for sources to decode into; None for arrays.
        operations: Operations before the first segment.
    """

    def __init__(self, frame: Frame, spec: InputSpec, chain: Chain, transfer: Transfer) -> None:
        """Allocate memory for frames of this size and format."""
        self._write: Preprocess = _copy_image
        self.buffer: Frame | None = None
        self.operations: Sequence[Operation]
        if spec.kind == "array":
            self._write, self._memory = ArrayPreprocess(spec), Memory({"frame": 4 * int(np.prod(spec.shape))})
            self._pixels: NDArray[np.float32] = self._memory.view("frame", np.float32, spec.shape)
            self.operations = [Upload(chain.image, self._memory.view("frame", np.uint8))]
            return
        params = preprocess_params(frame, spec)
        sizes = {"params": params.nbytes, "frame": frame.pixels.size}
        self._memory = Memory(sizes, sizes if transfer == "copied" else {"params": params.nbytes})
        self._memory.view("params", params.dtype)[:] = params
        self._memory.upload("params").on(chain.stream)
        self._pixels = self._memory.view("frame", np.uint8, frame.pixels.shape)
        self.buffer = Frame(self._pixels, frame.format)
        uploads = [self._memory.upload("frame")] if transfer == "copied" else []
        pixels, params_address = (self._memory.addresses[name] for name in ("frame", "params"))
        self.operations = [*uploads, chain.kernels.preprocess(pixels, params_address, chain.image, shape=spec.shape)]

    def write(self, frame: Frame) -> None:
        """Write a frame into the memory, unless it was decoded there."""
        self._write(frame, self._pixels)

    def close(self) -> None:
        """Release the memory while the GPU's context is current; the stream is synchronised. Idempotent."""
        self.buffer, self.operations, self._pixels = None, [], np.empty(0, dtype=np.float32)
        self._memory.close()


def _copy_image(frame: Frame, out: NDArray[np.float32]) -> None:
    if frame.pixels is not out:
        np.copyto(out, frame.pixels)
