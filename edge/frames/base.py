"""Frames as sources give them: pixels with their format, and the interface of a source."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol

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
    """Numbers that are no picture, shape (channels, height, width)."""


CHANNEL_FORMATS = {1: PixelFormat.GRAY, 3: PixelFormat.BGR, 4: PixelFormat.BGRX}
"""Formats of pictures with one value per channel, by the number of channels."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Pixels and their format."""

    pixels: NDArray[Any]
    format: PixelFormat
    position: str | float | None = None
    """Place in the source: a file's path in its folder, seconds from a video's start; None for live sources."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        height, width = self.pixels.shape[-2:] if self.format is PixelFormat.ARRAY else self.pixels.shape[:2]
        return (height * 2 // 3 if self.format is PixelFormat.NV12 else height), width


def frame_from_array(pixels: NDArray[Any], kind: Literal["image", "array"]) -> Frame:
    """Wrap an array as a frame for networks that read images or arrays.

    The format of an image follows from its shape: gray (height, width), BGR (height, width, 3), BGRx
    (height, width, 4). NV12 has the shape of a gray image and must be wrapped as `Frame(pixels, PixelFormat.NV12)`.

    Raises:
        SourceError: the array is not an 8-bit image of such a shape.
    """
    if kind == "array":
        return Frame(pixels, PixelFormat.ARRAY)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in CHANNEL_FORMATS or not pixels.size:
        raise SourceError(
            f"frame has shape {pixels.shape}, dtype {pixels.dtype}; this bundle reads 8-bit images: BGR "
            "(height, width, 3), BGRx (height, width, 4) or gray (height, width)"
        )
    return Frame(pixels, CHANNEL_FORMATS[channels])


class FrameSource(Protocol):
    """A sequence of frames.

    Sources that leave frames out count them: damaged frames and files in an attribute `damaged`, frames that a trigger
    leaves out in `skipped`.
    """

    is_live: bool
    """Whether frames arrive in real time, as from a camera, and are lost when nobody reads them."""
    frames: int | None
    """Number of frames, for videos an estimate; None where it is unknown."""

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame, decoded into `out` where it fits; None at the end.

        Raises:
            SourceError: the source failed; a `SourceLostError` where it worked before.
        """

    def close(self) -> None:
        """Release the device or file. Idempotent."""
