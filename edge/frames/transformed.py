"""Rotation and crop of a source's frames."""

import logging
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import AddressError
from edge.frames.base import Frame, FrameSource, PixelFormat, pixels_for
from edge.frames.options import Crop

ROTATIONS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}

log = logging.getLogger(__name__)


class Transformed:
    """A source whose frames are rotated, then cropped.

    Only the pixels of the crop are copied, once: into the caller's memory if it fits.
    """

    def __init__(self, source: FrameSource, rotate: int, crop: Crop | None, name: str) -> None:
        """Transform the frames of an open source, which is closed together with this source.

        Args:
            source: Source of frames.
            rotate: Degrees clockwise: 0, 90, 180 or 270.
            crop: Region of the rotated image; None for the whole image.
            name: The source, for messages.
        """
        self.is_live, self.frames = source.is_live, source.frames
        self._source, self._rotate, self._crop, self._name = source, rotate, crop, name
        self._spare: Frame | None = None
        self._frames_read = self._left_out = 0

    @property
    def damaged(self) -> int:
        """Damaged frames left out, and frames of a live source that became too small for the crop."""
        return int(getattr(self._source, "damaged", 0)) + self._left_out

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame, rotated and cropped; None at the end.

        Raises:
            AddressError: the crop exceeds the image.
            SourceError: the source failed.
        """
        while (frame := self._source.read(self._spare)) is not None:
            self._spare = frame
            try:
                transformed = self._transform(frame, out)
            except AddressError as error:
                if not (self.is_live and self._frames_read):
                    raise
                if not self._left_out:
                    log.warning("%s; such frames are left out", error)
                self._left_out += 1
                continue
            self._frames_read += 1
            return transformed
        return None

    def close(self) -> None:
        """Close the source. Idempotent."""
        self._source.close()

    def _transform(self, frame: Frame, out: Frame | None) -> Frame:
        if frame.format is PixelFormat.ARRAY:
            raise AddressError(
                f"{self._name} gives arrays, which cannot be rotated or cropped; leave these options out"
            )
        crop = self._crop_of(frame)
        rows = crop.height * 3 // 2 if frame.format is PixelFormat.NV12 else crop.height
        pixels = pixels_for(out, frame.format, (rows, crop.width, *frame.pixels.shape[2:]))
        transformed = Frame(pixels, frame.format, frame.position)
        for source, target, scale in zip(_planes(frame), _planes(transformed), (1, 2), strict=False):
            self._move(source, target, Crop(*(value // scale for value in crop)))
        return transformed

    def _crop_of(self, frame: Frame) -> Crop:
        """Return the crop of a frame, by default the whole image, checked against the size of the rotated image."""
        height, width = frame.size if self._rotate % 180 == 0 else frame.size[::-1]
        crop = self._crop or Crop(0, 0, width, height)
        crop.check_inside(width, height, self._name, is_nv12=frame.format is PixelFormat.NV12)
        return crop

    def _move(self, source: NDArray[Any], target: NDArray[Any], crop: Crop) -> None:
        """Copy a region of the rotated image; only the region is rotated."""
        left, top, width, height = _unrotated(crop, self._rotate, source.shape)
        region = source[top : top + height, left : left + width]
        if self._rotate:
            cv2.rotate(region, ROTATIONS[self._rotate], dst=target)
        else:
            np.copyto(target, region)


def _planes(frame: Frame) -> tuple[NDArray[Any], ...]:
    """Return a view of the pixels; for NV12 one of luma, and one of chroma at half its size."""
    if frame.format is not PixelFormat.NV12:
        return (frame.pixels,)
    height, width = frame.size
    return frame.pixels[:height], frame.pixels[height:].reshape(height // 2, width // 2, 2)


def _unrotated(crop: Crop, rotate: int, shape: tuple[int, ...]) -> Crop:
    """Return a region of the rotated image as a region of the original image, which has this shape."""
    height, width = shape[:2]
    right, bottom = crop.left + crop.width, crop.top + crop.height
    if rotate == 90:
        return Crop(crop.top, height - right, crop.height, crop.width)
    if rotate == 180:
        return Crop(width - right, height - bottom, crop.width, crop.height)
    if rotate == 270:
        return Crop(width - bottom, crop.left, crop.height, crop.width)
    return crop
