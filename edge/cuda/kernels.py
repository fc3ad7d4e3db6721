"""Our kernels, compiled by NVRTC for the GPU they run on, once, and kept in this user's cache."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from cuda.core import Kernel, LaunchConfig, ObjectCode, Program, ProgramOptions, launch

from edge.storage import cache_root, write_file

SOURCE = Path(__file__).with_name("kernels.cu")
WARP, TILE, ROW = 32, (32, 8), 256
WORD_BYTES = 16

PLACE = np.dtype([("first", "i4"), ("next", "i4"), ("near", "i4"), ("far", "i4")])
"""`Place` of the kernels."""
ORDER = np.dtype(
    [
        ("pixels", "u8"),
        ("chroma", "u8"),
        ("picture", "i4", 4),
        ("rows", "u8"),
        ("columns", "u8"),
        ("levels", "u8"),
        ("shape", "i4", 3),
        ("unused", "i4"),
    ]
)
"""`Order` of the kernels: a picture (height, width, pitch, format), and what to make of it (height, width,
channels)."""
SAID = np.dtype(
    [
        ("label", "u8"),
        ("confidence", "u8"),
        ("logits", "u8"),
        ("exits", "u8"),
        ("classes", "i4"),
        ("exit_index", "i4"),
        ("inverse_temperature", "f4"),
        ("unused", "i4"),
    ]
)
"""`Said` of the kernels."""
ANSWER = np.dtype(
    [("label", "i4"), ("confidence", "f4"), ("probability", "f4"), ("exit_index", "i4"), ("is_final", "i4")]
)
"""`Answer` of the kernels."""
DECIDED = np.dtype([("exit_index", "i4"), ("confidence", "f4"), ("label", "i4")])
"""`Decided` of the kernels."""


class Kernels:
    """The kernels, ready to be launched on a stream or into a graph that is being built."""

    def __init__(self, arch: str) -> None:
        """Compile for an architecture, or find what was compiled before; the GPU's context must be current."""
        code = ObjectCode.from_cubin(compiled(arch))
        self._preprocess = code.get_kernel("preprocess")
        self._answer = code.get_kernel("answer")
        self._answer_or_go_on = code.get_kernel("answer_or_go_on")
        self._survivors = code.get_kernel("survivors")
        self._gather_bytes, self._gather_words = code.get_kernel("gather_bytes"), code.get_kernel("gather_words")

    def preprocess(self, stream: Any, order: int, out: int, shape: tuple[int, int, int]) -> None:
        """Make a picture a network's input, float32 of shape (channels, height, width)."""
        _, height, width = shape
        grid = (-(-width // TILE[0]), -(-height // TILE[1]))
        _launch(stream, self._preprocess, grid, TILE, order, out)

    def answer(self, stream: Any, said: int, out: int) -> None:
        """Note what an exit said."""
        _launch(stream, self._answer, 1, WARP, said, out)

    def answer_or_go_on(self, stream: Any, condition: Any, said: int, out: int) -> None:
        """Note what an exit said, and set a graph's condition to whether the next segment is to run."""
        _launch(stream, self._answer_or_go_on, 1, WARP, condition, said, out)

    def survivors(
        self, stream: Any, said: int, rows: int, *, decided: int, images: int, going_on: int, count: int
    ) -> None:
        """Note who of a batch leaves at an exit, and list the rows of those who go on."""
        _launch(stream, self._survivors, 1, WARP, said, np.int32(rows), decided, images, going_on, count)

    def gather(self, stream: Any, source: int, rows: int, count: int, nbytes: int, out: int) -> None:
        """Put the `count` listed rows of a tensor together, each of `nbytes`."""
        is_whole = nbytes % WORD_BYTES == 0
        kernel, units = (self._gather_words, nbytes // WORD_BYTES) if is_whole else (self._gather_bytes, nbytes)
        _launch(stream, kernel, (-(-units // ROW), count), ROW, source, rows, units, out)


def compiled(arch: str) -> bytes:
    """Return the kernels' machine code for an architecture such as `sm_87`."""
    source = SOURCE.read_text()
    options = ProgramOptions(std="c++17", arch=arch)
    kept = cache_root() / f"kernels-{_key(source, arch)}.cubin"
    if not kept.exists():
        program = Program(source, "c++", options)
        write_file(kept, bytes(program.compile("cubin").code))
        program.close()
    return kept.read_bytes()


def _key(source: str, arch: str) -> str:
    from cuda.bindings import nvrtc

    version = nvrtc.nvrtcVersion()[1:]
    return hashlib.sha256(repr((source, arch, version)).encode()).hexdigest()[:32]


def _launch(stream: Any, kernel: Kernel, grid: Any, block: Any, *arguments: Any) -> None:
    launch(stream, LaunchConfig(grid=grid, block=block), kernel, *arguments)
