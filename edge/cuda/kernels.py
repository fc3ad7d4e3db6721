"""CUDA kernels, compiled by NVRTC for the GPU they run on and kept in this user's cache."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from cuda.core import Kernel, LaunchConfig, ObjectCode, Program, ProgramOptions, launch
from cuda.core.utils import FileStreamProgramCache

from edge.storage import private_cache_root

if TYPE_CHECKING:  # pycuda cannot be imported without a driver
    from edge.cuda.stream import GpuStream

SOURCE = Path(__file__).with_name("kernels.cu")
WARP, TILE, ROW = 32, (32, 8), 256
"""Threads per block."""
WORD_BYTES = 16
PREDICTION = np.dtype(
    [("label_index", "i4"), ("probability", "f4"), ("exit_index", "i4"), ("confidence", "f4"), ("is_final", "i4")]
)
"""`Prediction` of the kernels."""


class Launch(NamedTuple):
    """A kernel with its arguments; see `edge.cuda.operations.Operation`."""

    config: LaunchConfig
    kernel: Kernel
    arguments: tuple[Any, ...]

    def on(self, stream: "GpuStream") -> None:
        """Enqueue on a stream."""
        launch(stream.core, self.config, self.kernel, *self.arguments)

    def after(self, node: Any) -> Any:
        """Add to a graph."""
        return node.launch(self.config, self.kernel, *self.arguments)


class Kernels:
    """The kernels; each method returns a launch. Pointers are addresses as integers."""

    def __init__(self, arch: str) -> None:
        """Load the kernels for an architecture, compiled if needed; the GPU's context must be current."""
        get_kernel = compile_kernels(arch).get_kernel
        self._preprocess, self._compact = get_kernel("preprocess"), get_kernel("compact")
        self._decide, self._decide_and_set_condition = get_kernel("decide"), get_kernel("decide_and_set_condition")
        self._gather_bytes, self._gather_words = get_kernel("gather_bytes"), get_kernel("gather_words")

    def preprocess(self, pixels: int, params: int, out: int, *, shape: tuple[int, int, int]) -> Launch:
        """Preprocess an image into network input, float32 of shape (channels, height, width)."""
        _, height, width = shape
        grid = (-(-width // TILE[0]), -(-height // TILE[1]))
        return _launch(self._preprocess, grid, TILE, pixels, params, out)

    def decide(
        self,
        logits: int,
        threshold: int,
        out: int,
        *,
        classes: int,
        exit_index: int,
        temperature: float,
        rows: int = 1,
        condition: Any = None,
    ) -> Launch:
        """Take an exit's decision for each row of its logits; the threshold of the last exit is 0, no address.

        A graph's condition, if given, is set: the next segment runs unless this exit answers.
        """
        arguments = (logits, threshold, np.int32(classes), np.int32(exit_index), np.float32(1 / temperature), out)
        if condition is None:
            return _launch(self._decide, rows, WARP, *arguments)
        return _launch(self._decide_and_set_condition, rows, WARP, condition, *arguments)

    def compact(self, decisions: int, rows: int, predictions: int, samples: int, active: int, count: int) -> Launch:
        """Keep the final decisions of a batch's rows by sample, and list the rows that stay active."""
        return _launch(self._compact, 1, WARP, decisions, np.int32(rows), predictions, samples, active, count)

    def gather(self, source: int, rows: int, count: int, row_bytes: int, out: int) -> Launch:
        """Copy the `count` listed rows of a tensor to consecutive rows."""
        in_words = row_bytes % WORD_BYTES == 0
        kernel, units = (self._gather_words, row_bytes // WORD_BYTES) if in_words else (self._gather_bytes, row_bytes)
        return _launch(kernel, (-(-units // ROW), count), ROW, source, rows, units, out)


def compile_kernels(arch: str) -> ObjectCode:
    """Return the kernels for an architecture, for example `sm_87`, compiled once."""
    with FileStreamProgramCache(private_cache_root(private_cache_root() / "kernels")) as cache:
        program = Program(SOURCE.read_text(), "c++", ProgramOptions(std="c++17", arch=arch))
        return program.compile("cubin", cache=cache)


def _launch(kernel: Kernel, grid: Any, block: Any, *arguments: Any) -> Launch:
    return Launch(LaunchConfig(grid=grid, block=block), kernel, arguments)
