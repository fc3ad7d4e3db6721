"""CUDA kernels, compiled by NVRTC for the GPU they run on and kept in this user's cache."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from cuda.core import Kernel, LaunchConfig, ObjectCode, Program, ProgramOptions, launch

from edge.storage import check_private, private_cache_root, write_file

SOURCE = Path(__file__).with_name("kernels.cu")
WARP, TILE, ROW = 32, (32, 8), 256
"""Threads per block."""
WORD_BYTES = 16


class Kernels:
    """The kernels, launched on a stream or into a graph builder; pointers are addresses as integers."""

    def __init__(self, arch: str) -> None:
        """Load the kernels for an architecture, compiled if needed; the GPU's context must be current."""
        code = ObjectCode.from_cubin(compile_kernels(arch))
        self._preprocess = code.get_kernel("preprocess")
        self._write_prediction = code.get_kernel("write_prediction")
        self._write_prediction_and_condition = code.get_kernel("write_prediction_and_condition")
        self._compact = code.get_kernel("compact")
        self._gather_bytes, self._gather_words = code.get_kernel("gather_bytes"), code.get_kernel("gather_words")

    def preprocess(self, stream: Any, params: int, out: int, shape: tuple[int, int, int]) -> None:
        """Preprocess an image into network input, float32 of shape (channels, height, width)."""
        _, height, width = shape
        grid = (-(-width // TILE[0]), -(-height // TILE[1]))
        _launch(stream, self._preprocess, grid, TILE, params, out)

    def write_prediction(self, stream: Any, exit_outputs: int, out: int) -> None:
        """Write an exit's result."""
        _launch(stream, self._write_prediction, 1, WARP, exit_outputs, out)

    def write_prediction_and_condition(self, stream: Any, condition: Any, exit_outputs: int, out: int) -> None:
        """Write an exit's result, and set a graph's condition: the next segment runs unless this exit answers."""
        _launch(stream, self._write_prediction_and_condition, 1, WARP, condition, exit_outputs, out)

    def compact(
        self,
        stream: Any,
        exit_outputs: int,
        rows: int,
        *,
        predictions: int,
        samples: int,
        active_rows: int,
        active_count: int,
    ) -> None:
        """Write the results of a batch's rows that exit, and list the rows that stay active."""
        arguments = exit_outputs, np.int32(rows), predictions, samples, active_rows, active_count
        _launch(stream, self._compact, 1, WARP, *arguments)

    def gather(self, stream: Any, source: int, rows: int, count: int, row_bytes: int, out: int) -> None:
        """Copy the `count` listed rows of a tensor to consecutive rows."""
        in_words = row_bytes % WORD_BYTES == 0
        kernel, units = (self._gather_words, row_bytes // WORD_BYTES) if in_words else (self._gather_bytes, row_bytes)
        _launch(stream, kernel, (-(-units // ROW), count), ROW, source, rows, units, out)


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


def _launch(stream: Any, kernel: Kernel, grid: Any, block: Any, *arguments: Any) -> None:
    launch(stream, LaunchConfig(grid=grid, block=block), kernel, *arguments)
