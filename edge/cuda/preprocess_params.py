"""Parameters of the preprocess kernel for images of one size and format."""

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import InputSpec
from edge.frames.base import Frame, PixelFormat
from edge.frames.preprocess import center_crop, normalization_lut

BILINEAR_TAP = np.dtype([("index0", "i4"), ("index1", "i4"), ("weight0", "i4"), ("weight1", "i4")])
"""`BilinearTap` of the kernels."""
FORMATS = {PixelFormat.GRAY: 0, PixelFormat.BGR: 1, PixelFormat.BGRX: 2, PixelFormat.NV12: 3}
"""`Format` of the kernels."""
WEIGHT_SUM = 2048
"""Fixed-point 1 of OpenCV's bilinear weights."""


def preprocess_params(frame: Frame, spec: InputSpec) -> NDArray[np.void]:
    """Return `PreprocessParams` of the kernels, shape (1,), for images of a frame's size and format."""
    params = np.zeros(1, dtype=preprocess_params_dtype(spec))
    top, left, height, width = center_crop(frame.size, spec)
    params["image_height"], params["pitch"] = frame.size[0], frame.pixels[0].nbytes
    params["format"], params["shape"] = FORMATS[frame.format], (spec.height, spec.width, spec.channels)
    params["row_taps"] = bilinear_taps(spec.height, height, top)
    params["column_taps"] = bilinear_taps(spec.width, width, left)
    params["lut"] = normalization_lut(spec)
    return params


def preprocess_params_dtype(spec: InputSpec) -> np.dtype[np.void]:
    """Return the type of `preprocess_params`; `shape` is the network input's height, width and channels."""
    header = [("image_height", "i4"), ("pitch", "i4"), ("format", "i4"), ("shape", "i4", (3,))]
    taps = [("row_taps", BILINEAR_TAP, (spec.height,)), ("column_taps", BILINEAR_TAP, (spec.width,))]
    return np.dtype([*header, *taps, ("lut", "f4", (spec.channels, 256))])


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
