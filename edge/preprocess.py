"""Frame to network input; training evaluates through this very code, so that both ends agree."""

from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.manifest import InputSpec

Frame = NDArray[Any]
"""An 8-bit image, (height, width, 3) in BGR, (height, width, 4) in BGRx or (height, width) in gray, or `Nv12`; or an
array (channels, height, width)."""


class Nv12(np.ndarray[Any, np.dtype[np.uint8]]):
    """An 8-bit image as cameras on Jetsons give it: `rows.view(Nv12)`, of shape (3/2 height, width).

    Rows of luma, then half as many of pairs of blue and red differences, one for each four pixels; by BT.601 with a
    reduced range, as OpenCV reads NV12. A part of it is rows like any other, and so is what NumPy makes of it anew.
    """

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]


class Preprocess(Protocol):
    """Writes a frame as network input, float32 of shape (channels, height, width), into `out`."""

    def __call__(self, frame: Frame, out: NDArray[np.float32]) -> None:
        """Preprocess one frame."""


def preprocess_for(spec: InputSpec) -> Preprocess:
    """Return the preprocessing that an input asks for."""
    return ImagePreprocess(spec) if spec.kind == "image" else ArrayPreprocess(spec)


class ImagePreprocess:
    """Largest centred crop of the input's aspect ratio, bilinear resize, colour order, normalisation.

    Values are looked up in a table of the 256 possible ones for each channel, so that the arithmetic is the same
    on every machine, and on a GPU.
    """

    def __init__(self, spec: InputSpec) -> None:
        """Make the table."""
        self._spec, self._table = spec, levels_of(spec)

    def __call__(self, frame: Frame, out: NDArray[np.float32]) -> None:
        """Preprocess one 8-bit image of any size."""
        check_picture(frame)
        picture = cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_NV12) if isinstance(frame, Nv12) else frame
        resized = as_sized(picture, self._spec)
        if self._spec.colour == "gray":
            gray: Frame = resized if resized.ndim == 2 else cv2.cvtColor(resized[:, :, :3], cv2.COLOR_BGR2GRAY)
            np.take(self._table[0], gray, out=out[0], mode="clip")
            return
        for channel in range(3):  # out is RGB, frames are BGR
            plane = resized if resized.ndim == 2 else resized[:, :, 2 - channel]
            np.take(self._table[channel], plane, out=out[channel], mode="clip")


def levels_of(spec: InputSpec) -> NDArray[np.float32]:
    """Return what each value v of a pixel is to the network: `(v / 255 - mean[c]) / std[c]`, rounded once to float32.

    Shape (channels, 256).
    """
    levels = np.arange(256)[None, :] / 255
    mean, std = np.array(spec.mean)[:, None], np.array(spec.std)[:, None]
    table: NDArray[np.float32] = ((levels - mean) / std).astype(np.float32)
    return table


def check_picture(frame: Frame) -> None:
    """Refuse what is no 8-bit picture.

    Raises:
        SourceError: it is something else.
    """
    if isinstance(frame, Nv12):
        is_picture = frame.ndim == 2 and frame.shape[0] % 3 == 0 and frame.shape[1] % 2 == 0
    else:
        is_picture = frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] in (3, 4))
    if frame.dtype != np.uint8 or not is_picture or not frame.size:
        kind = "an NV12 frame" if isinstance(frame, Nv12) else "a frame"
        raise SourceError(
            f"{kind} has shape {frame.shape} and type {frame.dtype}; this network reads 8-bit images, BGR "
            "(height, width, 3), BGRx (height, width, 4), gray (height, width) or NV12 (3/2 height, width), even sizes"
        )


def size_of(frame: Frame) -> tuple[int, int]:
    """Return a picture's height and width."""
    height, width = frame.shape[:2]
    return (height * 2 // 3 if isinstance(frame, Nv12) else height), width


def as_sized(frame: Frame, spec: InputSpec) -> Frame:
    """Return an image's largest centred crop of the input's aspect ratio at the input's size; an array as it is."""
    if spec.kind == "array" or frame.shape[:2] == (spec.height, spec.width):
        return frame
    top, left, height, width = crop_of(frame.shape, spec)
    crop = frame[top : top + height, left : left + width]
    return cv2.resize(crop, (spec.width, spec.height), interpolation=cv2.INTER_LINEAR)


def crop_of(shape: tuple[int, ...], spec: InputSpec) -> tuple[int, int, int, int]:
    """Return top, left, height and width of an image's largest centred crop of the input's aspect ratio."""
    scale = min(shape[0] / spec.height, shape[1] / spec.width)
    height, width = max(1, round(spec.height * scale)), max(1, round(spec.width * scale))
    return (shape[0] - height) // 2, (shape[1] - width) // 2, height, width


class ArrayPreprocess:
    """Normalisation of numbers that are no picture: `(x - mean[c]) / std[c]`."""

    def __init__(self, spec: InputSpec) -> None:
        """Prepare the constants."""
        self._shape = spec.shape
        self._mean = np.array(spec.mean, dtype=np.float32)[:, None, None]
        self._std = np.array(spec.std, dtype=np.float32)[:, None, None]

    def __call__(self, frame: Frame, out: NDArray[np.float32]) -> None:
        """Preprocess one array of exactly the network's shape."""
        if frame.shape != self._shape or frame.dtype.kind not in "biuf":
            raise SourceError(
                f"an array has shape {frame.shape} and type {frame.dtype}; "
                f"this network reads numbers, (channels, height, width) {self._shape}"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is infinite, which is refused below
            np.subtract(np.asarray(frame, dtype=np.float32), self._mean, out=out)
            np.divide(out, self._std, out=out)
        if not np.isfinite(out).all():
            raise SourceError(
                "an array holds NaN or infinite numbers, or ones too large for float32, of which a quantised network "
                "would make an answer"
            )
