"""Colour conversion of frames."""

from typing import Any

import cv2
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.frames.base import Frame, PixelFormat

TO_BGR = {
    PixelFormat.NV12: cv2.COLOR_YUV2BGR_NV12,
    PixelFormat.BGRX: cv2.COLOR_BGRA2BGR,
    PixelFormat.GRAY: cv2.COLOR_GRAY2BGR,
}


def bgr_pixels(frame: Frame) -> NDArray[Any]:
    """Return a frame as a BGR picture, shape (height, width, 3); the frame's own memory if it is BGR.

    Raises:
        SourceError: the frame is not a picture.
    """
    if frame.format is PixelFormat.ARRAY:
        raise SourceError("the frames are arrays, not pictures; leave out outputs that show or record pictures")
    return cv2.cvtColor(frame.pixels, TO_BGR[frame.format]) if frame.format in TO_BGR else frame.pixels
