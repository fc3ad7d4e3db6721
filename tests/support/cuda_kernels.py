"""The kernels on the stand-in for a GPU: their own source, run on the host, after a check of the memory they touch."""

import ctypes
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.cuda_stand_in import Condition, KernelNode, World, require

KERNELS = (
    "preprocess",
    "decide",
    "decide_and_set_condition",
    "compact",
    "gather_bytes",
    "gather_words",
)
TIMED_SEGMENT = "timed_segment"
"""The kernel of `benchmarks.gpu.segments`."""
ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "edge/cuda/kernels.cu", ROOT / "benchmarks/gpu/segments.cu")


@cache
def parameter_types(kernel: str) -> list[type]:
    """Return the types of a kernel's arguments as cuda.core takes them: pointers and 64-bit integers are `int`."""
    sources = "\n".join(source.read_text() for source in SOURCES)
    [signature] = re.findall(rf'extern "C" __global__ void {kernel}\((.*?)\)', sources, re.DOTALL)
    types = {"int": np.int32, "float": np.float32, "long long": int, "cudaGraphConditionalHandle": Condition}
    parameters = [parameter.strip() for parameter in signature.split(",")]
    return [int if "*" in parameter else types[parameter.rpartition(" ")[0]] for parameter in parameters]


def kernel_node(world: World, name: str, config: Any, arguments: Sequence[Any]) -> KernelNode:
    """Return the work of a launch."""
    if name == TIMED_SEGMENT:
        return KernelNode(name, lambda _: _run_timed_segment(world, *arguments))

    def run(_: World) -> None:
        CHECKS[name](world, config, *arguments)
        launch_on_host(world.host_kernels, name, config.grid, config.block, arguments)

    return KernelNode(name, run)


def launch_on_host(kernels: ctypes.CDLL, name: str, grid: Any, block: Any, arguments: Sequence[Any]) -> None:
    """Run one of our kernels on the host."""
    numbers = [value for value in arguments if isinstance(value, np.float32)]
    others = [value for value in arguments if not isinstance(value, np.float32)]
    values = [ctypes.addressof(value.cell) if isinstance(value, Condition) else int(value) for value in others]
    sizes = [(ctypes.c_uint * 3)(*size, *[1] * (3 - len(size))) for size in map(_dimensions, (grid, block))]
    number = ctypes.c_float(sum(numbers))
    kernels.launch_on_host(getattr(kernels, name), (ctypes.c_long * 6)(*values), number, *sizes)


def _dimensions(size: Any) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


def _check_preprocess(world: World, config: Any, pixels: int, params: int, out: int) -> None:
    from edge.bundle.manifest import InputSpec
    from edge.cuda.preprocess_params import FORMATS, preprocess_params_dtype
    from edge.frames.base import PixelFormat

    rows, pitch, pixel_format, height, width, channels = world.array(params, np.int32, 6).tolist()
    spec = InputSpec("image", None, channels, height, width, (), ())
    world.array(params, preprocess_params_dtype(spec))
    is_nv12 = pixel_format == FORMATS[PixelFormat.NV12]
    world.array(pixels, np.uint8, (rows * 3 // 2 if is_nv12 else rows) * pitch)
    world.array(out, np.float32, height * width * channels)


def _check_decide(
    world: World, config: Any, logits: int, threshold: int, classes: int, exit_: int, scale: float, out: int
) -> None:
    from edge.cuda.kernels import PREDICTION

    rows = int(config.grid)
    world.array(logits, np.float32, rows * int(classes))
    if threshold:
        world.array(threshold, np.float32)
    world.array(out, PREDICTION, rows)


def _check_compact(
    world: World, config: Any, decisions: int, rows: int, predictions: int, samples: int, active: int, count: int
) -> None:
    from edge.cuda.kernels import PREDICTION

    world.array(decisions, PREDICTION, int(rows))
    for sample in world.array(samples, np.int32, int(rows)):
        world.array(predictions + int(sample) * PREDICTION.itemsize, PREDICTION)
    world.array(active, np.int32, int(rows))
    world.array(count, np.int32)


def _check_gather(world: World, config: Any, source: int, rows: int, units: int, out: int, unit: int) -> None:
    listed = world.array(rows, np.int32, config.grid[1])
    require(source % unit == 0 and out % unit == 0, "words that are not aligned")
    world.array(source, np.uint8, (int(listed.max()) + 1) * units * unit)
    world.array(out, np.uint8, len(listed) * units * unit)


CHECKS: dict[str, Callable[..., None]] = {
    "preprocess": _check_preprocess,
    "decide": _check_decide,
    "decide_and_set_condition": lambda world, config, condition, *rest: _check_decide(world, config, *rest),
    "compact": _check_compact,
    "gather_bytes": partial(_check_gather, unit=1),
    "gather_words": partial(_check_gather, unit=16),
}
"""Checks of the memory that each kernel touches."""


def _run_timed_segment(world: World, duration_ns: int, index: int, exits: int, image: int, cut: int, *out: int) -> None:
    """Compute the outputs of the benchmark's kernel, without the time it takes."""
    logits, runs = out
    value = world.array(image, np.float32, int(exits))[index]
    values = world.array(logits, np.float32, int(exits))
    values[:] = 0
    values[index] = np.nan if value < 0 else value
    world.array(runs, np.uint32)[0] += 1
    if cut:
        world.array(cut, np.float32)[0] = value
