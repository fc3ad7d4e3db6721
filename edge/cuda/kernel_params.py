"""Structures that the kernels read and write, and their values for a frame format and a chain."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import InputSpec
from edge.frames.base import Frame, PixelFormat
from edge.frames.preprocess import center_crop, normalization_lut

if TYPE_CHECKING:
    from edge.cuda.memory import Memory


def _struct(**fields: str) -> np.dtype[np.void]:
    return np.dtype([*fields.items()])


BILINEAR_TAP = _struct(index0="i4", index1="i4", weight0="i4", weight1="i4")
"""`BilinearTap` of the kernels."""
PREPROCESS_PARAMS = _struct(
    pixels="u8", chroma="u8", image="4i4", row_taps="u8", column_taps="u8", lut="u8", shape="3i4", padding="i4"
)
"""`PreprocessParams` of the kernels: the image's height, width, pitch and format; the output's height, width and
channels."""
EXIT = _struct(logits="u8", threshold="u8", classes="i4", exit_index="i4", inverse_temperature="f4", padding="i4")
"""`Exit` of the kernels."""
PREDICTION = _struct(label_index="i4", probability="f4", exit_index="i4", confidence="f4", is_final="i4")
"""`Prediction` of the kernels."""
FORMATS = {PixelFormat.GRAY: 0, PixelFormat.BGR: 1, PixelFormat.BGRX: 2, PixelFormat.NV12: 3}
"""`Format` of the kernels."""
WEIGHT_SUM = 2048
"""Fixed-point 1 of OpenCV's bilinear weights."""


def preprocess_params_sizes(spec: InputSpec) -> dict[str, int]:
    """Return the bytes of each tensor that `write_preprocess_params` fills."""
    return {
        "preprocess_params": PREPROCESS_PARAMS.itemsize,
        "row_taps": spec.height * BILINEAR_TAP.itemsize,
        "column_taps": spec.width * BILINEAR_TAP.itemsize,
        "lut": normalization_lut(spec).nbytes,
    }


def write_preprocess_params(memory: "Memory", frame: Frame, spec: InputSpec) -> None:
    """Write the parameters for frames of this size and format, which lie in the tensor `frame`."""
    (height, width), addresses = frame.size, memory.addresses
    top, left, crop_height, crop_width = center_crop((height, width), spec)
    memory.view("row_taps", BILINEAR_TAP)[:] = bilinear_taps(spec.height, crop_height, top)
    memory.view("column_taps", BILINEAR_TAP)[:] = bilinear_taps(spec.width, crop_width, left)
    memory.view("lut", np.float32, (spec.channels, 256))[:] = normalization_lut(spec)
    pixel_bytes = frame.pixels.shape[2] if frame.pixels.ndim == 3 else 1
    params = memory.view("preprocess_params", PREPROCESS_PARAMS)
    params["pixels"], params["chroma"] = addresses["frame"], addresses["frame"] + height * width
    params["image"] = (height, width, width * pixel_bytes, FORMATS[frame.format])
    params["shape"] = (spec.height, spec.width, spec.channels)
    for name in ("row_taps", "column_taps", "lut"):
        params[name] = addresses[name]


def bilinear_taps(outputs: int, inputs: int, offset: int) -> NDArray[np.void]:
    """Return OpenCV's bilinear taps for resizing `inputs` rows or columns, starting at `offset`, to `outputs`."""
    position = ((np.arange(outputs) + 0.5) * (inputs / outputs) - 0.5).astype(np.float32)
    index = np.floor(position).astype(np.int32)
    fraction = position - index
    fraction[(index < 0) | (index >= inputs - 1)] = 0
    index = index.clip(0, inputs - 1)
    taps = np.empty(outputs, dtype=BILINEAR_TAP)
    taps["index0"], taps["index1"] = offset + index, offset + np.minimum(index + 1, inputs - 1)
    taps["weight0"] = np.rint((np.float32(1) - fraction) * np.float32(WEIGHT_SUM))
    taps["weight1"] = np.rint(fraction * np.float32(WEIGHT_SUM))
    return taps


def write_exits(memory: "Memory", chain: ChainSpec) -> None:
    """Write the logits and the rule of each exit into the tensor `exits`; the first segment of the chain has exit 0."""
    rows, addresses = memory.view("exits", EXIT), memory.addresses
    for index, (segment, temperature) in enumerate(zip(chain.segments, chain.temperatures, strict=True)):
        logits, is_last = tensors.logits(segment.exit_index), index == chain.exits - 1
        threshold = 0 if is_last else addresses[tensors.threshold(segment.exit_index)]
        classes = next(spec.shape[-1] for spec in segment.outputs if spec.name == logits)
        rows[index] = (addresses[logits], threshold, classes, index, 1 / temperature, 0)
