"""Frame to network input. Training evaluates through this code, too, so that training and inference agree."""

from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import InputSpec
from edge.errors import SourceError
from edge.frames.base import Frame, PixelFormat
from edge.frames.colour import bgr_pixels


class Preprocess(Protocol):
    """Writes a frame as network input, float32 of shape (channels, height, width), into `out`."""

    def __call__(self, frame: Frame, out: NDArray[np.float32]) -> None:
        """Preprocess one frame.

        Raises:
            SourceError: the frame has another shape, type or format than the network reads.
        """


def preprocess_for(spec: InputSpec) -> Preprocess:
    """Return the preprocessing of an input."""
    return ImagePreprocess(spec) if spec.kind == "image" else ArrayPreprocess(spec)


class ImagePreprocess:
    """Largest centred crop of the input's aspect ratio, bilinear resizing, colour order and normalisation.

    Normalisation looks up each of the 256 possible values of a channel in a table, so that it is identical on every
    machine and on a GPU.
    """

    def __init__(self, spec: InputSpec) -> None:
        """Compute the table."""
        self._spec, self._table = spec, normalization_lut(spec)

    def __call__(self, frame: Frame, out: NDArray[np.float32]) -> None:
        """Preprocess one 8-bit image of any size."""
        check_image(frame)
        pixels = frame.pixels
        if frame.format is PixelFormat.NV12:
            pixels = bgr_pixels(frame)
        resized = resize(pixels, self._spec)
        if self._spec.colour == "gray":
            gray: NDArray[Any] = resized if resized.ndim == 2 else cv2.cvtColor(resized[:, :, :3], cv2.COLOR_BGR2GRAY)
            np.take(self._table[0], gray, out=out[0], mode="clip")
            return
        for channel in range(3):  # out is RGB, frames are BGR
            plane = resized if resized.ndim == 2 else resized[:, :, 2 - channel]
            np.take(self._table[channel], plane, out=out[channel], mode="clip")


def normalization_lut(spec: InputSpec) -> NDArray[np.float32]:
    """Return `(v / 255 - mean[c]) / std[c]` for each 8-bit value v, rounded once to float32; shape (channels, 256)."""
    levels = np.arange(256)[None, :] / 255
    mean, std = np.array(spec.mean)[:, None], np.array(spec.std)[:, None]
    table: NDArray[np.float32] = ((levels - mean) / std).astype(np.float32)
    return table


def check_image(frame: Frame) -> None:
    """Check that a frame is an 8-bit image.

    Raises:
        SourceError: the pixels do not fit the format, or it is not a format of images.
    """
    pixels = frame.pixels
    shapes = {
        PixelFormat.BGR: pixels.ndim == 3 and pixels.shape[-1] == 3,
        PixelFormat.BGRX: pixels.ndim == 3 and pixels.shape[-1] == 4,
        PixelFormat.GRAY: pixels.ndim == 2,
        PixelFormat.NV12: pixels.ndim == 2 and pixels.shape[0] % 3 == 0 and pixels.shape[1] % 2 == 0,
    }
    if pixels.dtype != np.uint8 or not shapes.get(frame.format, False) or not pixels.size:
        raise SourceError(
            f"{frame.format.value} frame has shape {pixels.shape}, dtype {pixels.dtype}; this bundle reads 8-bit "
            "images: BGR (height, width, 3), BGRx (height, width, 4), gray (height, width) or NV12 (3/2 height, width) "
            "of even size; convert it, or correct the format"
        )


def resize(pixels: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """Crop the centre of an image to the input's aspect ratio and resize it; arrays are returned unchanged."""
    if spec.kind == "array" or pixels.shape[:2] == (spec.height, spec.width):
        return pixels
    top, left, height, width = center_crop(pixels.shape, spec)
    crop = pixels[top : top + height, left : left + width]
    return cv2.resize(crop, (spec.width, spec.height), interpolation=cv2.INTER_LINEAR)


def center_crop(shape: tuple[int, ...], spec: InputSpec) -> tuple[int, int, int, int]:
    """Return top, left, height and width of an image's largest centred crop of the input's aspect ratio."""
    scale = min(shape[0] / spec.height, shape[1] / spec.width)
    height, width = max(1, round(spec.height * scale)), max(1, round(spec.width * scale))
    return (shape[0] - height) // 2, (shape[1] - width) // 2, height, width


class ArrayPreprocess:
    """Normalisation of an array that is not an image: `(x - mean[c]) / std[c]`."""

    def __init__(self, spec: InputSpec) -> None:
        """Compute the constants."""
        self._shape = spec.shape
        self._mean = np.array(spec.mean, dtype=np.float32)[:, None, None]
        self._std = np.array(spec.std, dtype=np.float32)[:, None, None]

    def __call__(self, frame: Frame, out: NDArray[np.float32]) -> None:
        """Preprocess one array of the network's input shape."""
        values = frame.pixels
        if frame.format is not PixelFormat.ARRAY or values.shape != self._shape or values.dtype.kind not in "biuf":
            raise SourceError(
                f"{frame.format.value} frame has shape {values.shape}, dtype {values.dtype}; "
                f"this bundle reads arrays of numbers, shape (channels, height, width) {self._shape}; give one"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # overflow becomes infinity, which is refused below
            np.subtract(np.asarray(values, dtype=np.float32), self._mean, out=out)
            np.divide(out, self._std, out=out)
        if not np.isfinite(out).all():
            raise SourceError(
                "frame holds NaN, infinity or numbers too large for float32, which a quantised network would classify "
                "without an error; replace them before classifying"
            )


def preprocess_batch(frames: Sequence[Frame], spec: InputSpec) -> NDArray[np.float32]:
    """Return frames as network input, float32 of shape (samples, channels, height, width).

    Raises:
        SourceError: a frame has another shape, type or format than the network reads.
    """
    images = np.empty((len(frames), *spec.shape), dtype=np.float32)
    preprocess = preprocess_for(spec)
    for frame, image in zip(frames, images, strict=True):
        preprocess(frame, image)
    return images
