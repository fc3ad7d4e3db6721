"""CUDA kernels, compiled by NVRTC for the GPU they run on and kept in this user's cache."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cuda.core import Kernel, LaunchConfig, ObjectCode, Program, ProgramOptions, Stream, launch

from edge.storage import check_private, private_cache_root, write_file

SOURCE = Path(__file__).with_name("kernels.cu")
WARP, TILE, ROW = 32, (32, 8), 256
"""Threads per block."""
WORD_BYTES = 16


class Launch(NamedTuple):
    """A kernel with its arguments."""

    config: LaunchConfig
    kernel: Kernel
    arguments: tuple[Any, ...]

    def on(self, stream: Stream) -> None:
        """Enqueue on a stream."""
        launch(stream, self.config, self.kernel, *self.arguments)

    def after(self, node: Any) -> Any:
        """Add a node to a graph that depends on another node, or an entry node to a graph definition; return it."""
        return node.launch(self.config, self.kernel, *self.arguments)


class Kernels:
    """The kernels; each method returns a launch. Pointers are addresses as integers."""

    def __init__(self, arch: str) -> None:
        """Load the kernels for an architecture, compiled if needed; the GPU's context must be current."""
        get_kernel = ObjectCode.from_cubin(compile_kernels(arch)).get_kernel
        self._preprocess, self._compact = get_kernel("preprocess"), get_kernel("compact")
        self._decide, self._decide_and_set_condition = get_kernel("decide"), get_kernel("decide_and_set_condition")
        self._gather_bytes, self._gather_words = get_kernel("gather_bytes"), get_kernel("gather_words")

    def preprocess(self, params: int, out: int, shape: tuple[int, int, int]) -> Launch:
        """Preprocess an image into network input, float32 of shape (channels, height, width)."""
        _, height, width = shape
        grid = (-(-width // TILE[0]), -(-height // TILE[1]))
        return _launch(self._preprocess, grid, TILE, params, out)

    def decide(self, exit_: int, out: int, *, rows: int = 1, condition: Any = None) -> Launch:
        """Take an exit's decision for each row of its logits.

        A graph's condition, if given, is set: the next segment runs unless this exit answers.
        """
        if condition is None:
            return _launch(self._decide, rows, WARP, exit_, out)
        return _launch(self._decide_and_set_condition, rows, WARP, condition, exit_, out)

    def compact(self, decisions: int, rows: int, predictions: int, samples: int, active: int, count: int) -> Launch:
        """Keep the final decisions of a batch's rows by sample, and list the rows that stay active."""
        return _launch(self._compact, 1, WARP, decisions, np.int32(rows), predictions, samples, active, count)

    def gather(self, source: int, rows: int, count: int, row_bytes: int, out: int) -> Launch:
        """Copy the `count` listed rows of a tensor to consecutive rows."""
        in_words = row_bytes % WORD_BYTES == 0
        kernel, units = (self._gather_words, row_bytes // WORD_BYTES) if in_words else (self._gather_bytes, row_bytes)
        return _launch(kernel, (-(-units // ROW), count), ROW, source, rows, units, out)


def compile_kernels(arch: str) -> bytes:
    """Return the kernels' cubin for an architecture, for example `sm_87`; it is compiled once."""
    source = SOURCE.read_text()
    options = ProgramOptions(std="c++17", arch=arch)
    root = private_cache_root()
    cached = root / f"kernels-{_key(source, arch)}.cubin"
    if cached.exists():
        check_private(cached, root)
    else:
        program = Program(source, "c++", options)
        write_file(cached, bytes(program.compile("cubin").code))
        program.close()
    return cached.read_bytes()


def _key(source: str, arch: str) -> str:
    from cuda.bindings import nvrtc

    version = nvrtc.nvrtcVersion()[1:]
    return hashlib.sha256(repr((source, arch, version)).encode()).hexdigest()[:32]


def _launch(kernel: Kernel, grid: Any, block: Any, *arguments: Any) -> Launch:
    return Launch(LaunchConfig(grid=grid, block=block), kernel, arguments)
