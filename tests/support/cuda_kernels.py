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
    "write_prediction",
    "write_prediction_and_condition",
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
    types = {"int": np.int32, "long long": int, "cudaGraphConditionalHandle": Condition}
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
    values = [ctypes.addressof(value.cell) if isinstance(value, Condition) else int(value) for value in arguments]
    sizes = [(ctypes.c_uint * 3)(*size, *[1] * (3 - len(size))) for size in map(_dimensions, (grid, block))]
    kernels.launch_on_host(getattr(kernels, name), (ctypes.c_long * 6)(*values), *sizes)


def _dimensions(size: Any) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


def _check_preprocess(world: World, config: Any, params_address: int, out: int) -> None:
    from edge.cuda.kernel_params import BILINEAR_TAP, FORMATS, PREPROCESS_PARAMS
    from edge.frames.base import PixelFormat

    params = world.array(params_address, PREPROCESS_PARAMS)[0]
    height, width, channels = (int(value) for value in params["shape"])
    rows, _, pitch, pixel_format = (int(value) for value in params["image"])
    world.array(int(params["pixels"]), np.uint8, rows * pitch)
    if pixel_format == FORMATS[PixelFormat.NV12]:
        world.array(int(params["chroma"]), np.uint8, rows // 2 * pitch)
    for name, count in (("row_taps", height), ("column_taps", width)):
        world.array(int(params[name]), BILINEAR_TAP, count)
    world.array(int(params["lut"]), np.float32, 256 * channels)
    world.array(out, np.float32, height * width * channels)


def _check_exit_outputs(world: World, address: int, rows: int) -> None:
    from edge.cuda.kernel_params import EXIT_OUTPUTS

    outputs = world.array(address, EXIT_OUTPUTS)[0]
    counts = {"label": (np.int32, 1), "confidence": (np.float32, 1), "exit_flag": (np.uint8, 1)}
    for name, (dtype, count) in {**counts, "logits": (np.float32, int(outputs["classes"]))}.items():
        if outputs[name]:
            world.array(int(outputs[name]), dtype, rows * count)


def _check_write_prediction(world: World, config: Any, exit_outputs: int, out: int) -> None:
    from edge.cuda.kernel_params import PREDICTION

    _check_exit_outputs(world, exit_outputs, 1)
    world.array(out, PREDICTION)


def _check_compact(
    world: World,
    config: Any,
    exit_outputs: int,
    rows: int,
    predictions: int,
    samples: int,
    active_rows: int,
    active_count: int,
) -> None:
    from edge.cuda.kernel_params import PREDICTION

    _check_exit_outputs(world, exit_outputs, int(rows))
    for sample in world.array(samples, np.int32, int(rows)):
        world.array(predictions + int(sample) * PREDICTION.itemsize, PREDICTION)
    world.array(active_rows, np.int32, int(rows))
    world.array(active_count, np.int32)


def _check_gather(world: World, config: Any, source: int, rows: int, units: int, out: int, unit: int) -> None:
    listed = world.array(rows, np.int32, config.grid[1])
    require(source % unit == 0 and out % unit == 0, "words that are not aligned")
    world.array(source, np.uint8, (int(listed.max()) + 1) * units * unit)
    world.array(out, np.uint8, len(listed) * units * unit)


CHECKS: dict[str, Callable[..., None]] = {
    "preprocess": _check_preprocess,
    "write_prediction": _check_write_prediction,
    "write_prediction_and_condition": lambda world, config, condition, exit_outputs, out: _check_write_prediction(
        world, config, exit_outputs, out
    ),
    "compact": _check_compact,
    "gather_bytes": partial(_check_gather, unit=1),
    "gather_words": partial(_check_gather, unit=16),
}
"""Checks of the memory that each kernel touches."""


def _run_timed_segment(
    world: World, duration_ns: int, index: int, image: int, threshold: int, cut: int, *outputs: int
) -> None:
    """Compute the outputs of the benchmark's kernel, without the time it takes."""
    logits, confidence, label, exit_flag, runs = outputs
    value = world.array(image, np.float32, int(index) + 1)[index]
    limit = world.array(threshold, np.float32)[0] if threshold else 0
    for address, dtype, written in (
        (cut, np.float32, value), (logits, np.float32, value), (logits + 4, np.float32, 0), (label, np.int32, index),
        (confidence, np.float32, value), (exit_flag, np.bool_, value >= limit),
        (runs, np.uint32, world.array(runs, np.uint32)[0] + 1),
    ):  # fmt: skip
        if address:
            world.array(address, dtype)[0] = written
