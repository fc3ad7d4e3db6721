"""What the GPU is told of frames of one kind: where their pixels are, and how to make a network's input of them."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import InputSpec
from edge.cuda.kernels import ORDER, PLACE
from edge.frames.base import Frame, PixelFormat
from edge.frames.preprocess import center_crop, normalization_lut

if TYPE_CHECKING:
    from edge.cuda.memory import Buffers

FORMATS = {PixelFormat.GRAY: 0, PixelFormat.BGR: 1, PixelFormat.BGRX: 2, PixelFormat.NV12: 3}
"""The kernels' `Format`."""
ONE = 2048
"""All of a pixel, in the shares that OpenCV interpolates with."""


def order_sizes(spec: InputSpec) -> dict[str, int]:
    """Return the bytes of each part of an order."""
    rows, columns = spec.height * PLACE.itemsize, spec.width * PLACE.itemsize
    return {"order": ORDER.itemsize, "rows": rows, "columns": columns, "levels": normalization_lut(spec).nbytes}


def write_order(buffers: "Buffers", frame: Frame, spec: InputSpec) -> None:
    """Write an order for frames like this one, which are at `frame`."""
    (height, width), at = frame.size, buffers.addresses
    top, left, crop_height, crop_width = center_crop((height, width), spec)
    buffers.view("rows", PLACE)[:] = places(spec.height, crop_height, top)
    buffers.view("columns", PLACE)[:] = places(spec.width, crop_width, left)
    buffers.view("levels", np.float32, (spec.channels, 256))[:] = normalization_lut(spec)
    pixel_bytes = frame.pixels.shape[2] if frame.pixels.ndim == 3 else 1
    order = buffers.view("order", ORDER)
    order["pixels"], order["chroma"] = at["frame"], at["frame"] + height * width
    kind = FORMATS[frame.format]
    order["picture"] = (height, width, width * pixel_bytes, kind)
    order["shape"] = (spec.height, spec.width, spec.channels)
    for name in ("rows", "columns", "levels"):
        order[name] = at[name]


def places(wanted: int, available: int, offset: int) -> NDArray[np.void]:
    """Return where each of `wanted` rows or columns lies among `available` ones, as OpenCV's bilinear resize has it."""
    at = ((np.arange(wanted) + 0.5) * (available / wanted) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int32)
    share = at - first
    share[(first < 0) | (first >= available - 1)] = 0
    first = first.clip(0, available - 1)
    found = np.empty(wanted, dtype=PLACE)
    found["first"], found["next"] = offset + first, offset + np.minimum(first + 1, available - 1)
    found["near"] = np.rint((np.float32(1) - share) * np.float32(ONE))
    found["far"] = np.rint(share * np.float32(ONE))
    return found
