"""Frames, which are pixels with their format, and the interface of a source."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError


class PixelFormat(Enum):
    """Memory layout of a frame."""

    BGR = "BGR"
    """uint8, shape (height, width, 3)."""
    BGRX = "BGRx"
    """uint8, shape (height, width, 4); the fourth channel is ignored."""
    GRAY = "GRAY8"
    """uint8, shape (height, width)."""
    NV12 = "NV12"
    """uint8, shape (3/2 height, width): rows of luma, then half as many of interleaved U and V, one pair for each 2x2
    pixels; BT.601 with limited range, as OpenCV reads NV12."""
    ARRAY = "array"
    """An array that is not an image, shape (channels, height, width)."""


CHANNEL_FORMATS = {3: PixelFormat.BGR, 4: PixelFormat.BGRX}
"""Formats of images with a channel axis, by the number of channels."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Pixels and their format."""

    pixels: NDArray[Any]
    format: PixelFormat
    position: str | float | None = None
    """Position in the source: a file's path in its folder, or seconds from a video's start; None for live sources."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        height, width = self.pixels.shape[-2:] if self.format is PixelFormat.ARRAY else self.pixels.shape[:2]
        return (height * 2 // 3 if self.format is PixelFormat.NV12 else height), width


def pixels_for(out: Frame | None, pixel_format: PixelFormat, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the pixels of `out` if they have this format and shape, else new memory for 8-bit pixels."""
    if out is not None and (out.format, out.pixels.shape) == (pixel_format, shape):
        return out.pixels
    return np.empty(shape, dtype=np.uint8)


def frame_from_array(pixels: NDArray[Any], kind: Literal["image", "array"]) -> Frame:
    """Wrap an array as a frame for networks that read images or arrays.

    The format of an image follows from its shape: gray (height, width), BGR (height, width, 3), BGRx
    (height, width, 4). NV12 has the shape of a gray image and must be wrapped as `Frame(pixels, PixelFormat.NV12)`.

    Raises:
        SourceError: the array is not an 8-bit image of such a shape.
    """
    if kind == "array":
        return Frame(pixels, PixelFormat.ARRAY)
    pixel_format = PixelFormat.GRAY if pixels.ndim == 2 else None
    if pixels.ndim == 3:
        pixel_format = CHANNEL_FORMATS.get(pixels.shape[2])
    if pixels.dtype != np.uint8 or pixel_format is None or not pixels.size:
        raise SourceError(
            f"frame has shape {pixels.shape}, dtype {pixels.dtype}; this bundle reads 8-bit images: BGR "
            f"(height, width, 3), BGRx (height, width, 4) or gray (height, width); {_conversion(pixels)}"
        )
    return Frame(pixels, pixel_format)


def _conversion(pixels: NDArray[Any]) -> str:
    """Return the remedy for an array that is not an 8-bit image."""
    if pixels.ndim == 4:
        return "classify several images with `predict_batch`"
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        return "convert it with image[:, :, 0]"
    if pixels.ndim == 3 and pixels.shape[0] in CHANNEL_FORMATS and pixels.shape[2] not in CHANNEL_FORMATS:
        return "convert it with image.transpose(1, 2, 0), and RGB to BGR"
    if pixels.dtype.kind == "f":
        return "convert values from 0 to 1 with (255 * image).round().astype(np.uint8)"
    return "convert it"


@runtime_checkable
class FrameSource(Protocol):
    """A sequence of frames.

    Sources that leave out frames count them: damaged frames and files in an attribute `damaged`, frames that a trigger
    leaves out in `skipped`.
    """

    frames: int | None
    """Number of frames, for videos an estimate; None if it is unknown."""

    @property
    def is_live(self) -> bool:
        """True for cameras and streams, whose frames are lost if they are not read in time; final with the first."""

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame, decoded into `out` if it fits; None at the end.

        Raises:
            SourceError: the source failed; a `SourceLostError` if it worked before.
        """

    def close(self) -> None:
        """Release the device or file. Idempotent."""
