"""Sources by name, and single frames from files, arrays and PIL images."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.frames.address import public_address
from edge.frames.base import CHANNEL_FORMATS, Frame, FrameSource, PixelFormat, frame_from_array
from edge.frames.camera import CameraSource
from edge.frames.files import FileSource, open_folder, read_frame
from edge.frames.gstreamer import GStreamerSource
from edge.frames.images import IMAGE_SUFFIXES, flatten, upper_bits
from edge.frames.video import VideoSource

if TYPE_CHECKING:
    from PIL.Image import Image


def open_source(name: str | int | Path, *, skip_bad: bool = False) -> FrameSource:
    """Open a source of frames.

    Args:
        name: A camera's index (`0`) or device (`/dev/video0`), a stream (`rtsp://...`), a GStreamer pipeline
            (`... ! appsink`), a video file or pipe (`/dev/stdin`), or a folder of images (or of `.npy` arrays, for
            networks that read arrays).
        skip_bad: Leave out damaged images of a folder and damaged frames of a video, and count them in the source's
            `damaged`, instead of failing at the first. Live sources always leave them out.

    Raises:
        SourceError: the source does not exist or gives no frames.
        UnavailableError: a library or a permission is missing.
    """
    if not isinstance(name, str | int | Path):
        raise SourceError(
            f"{type(name).__name__} is not a source; give a name or number, or an object with `read`, `close`, "
            "`is_live` and `frames`"
        )
    name = str(name)
    if name.isascii() and name.isdigit():
        return CameraSource(name)
    if " ! " in name:
        return GStreamerSource(name)
    if "://" in name:
        return VideoSource(name, skip_bad=skip_bad)
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError) as error:
        if name.startswith("/dev/"):
            return CameraSource(name)
        raise SourceError(
            f"there is no video or folder {public_address(name)} ({getattr(error, 'strerror', None) or error}); "
            "give a file, a folder, a camera index, a stream address or a GStreamer pipeline (... ! appsink)"
        ) from None
    path = Path(name)
    if stat.S_ISDIR(mode):
        return open_folder(path, name, skip_bad=skip_bad)
    if stat.S_ISCHR(mode):
        return CameraSource(name)
    is_image = path.suffix.lower() in IMAGE_SUFFIXES
    return FileSource([path], name, skip_bad=skip_bad) if is_image else VideoSource(name, skip_bad=skip_bad)


def is_single_image(images: object, kind: Literal["image", "array"]) -> bool:
    """Check for an iterable that is a single image, for networks that read images or arrays."""
    if not isinstance(images, np.ndarray):
        return isinstance(images, str)
    is_colour = images.ndim == 3 and (kind == "array" or images.shape[2] in CHANNEL_FORMATS)
    return images.ndim < 3 or is_colour


def open_frame(image: "str | Path | NDArray[Any] | Frame | Image", kind: Literal["image", "array"]) -> Frame:
    """Return a file, an array, a frame or a PIL image as a frame, for networks that read images or arrays.

    Raises:
        SourceError: the file cannot be read, or the image has an unsupported shape or type.
    """
    if isinstance(image, Frame):
        return image
    if isinstance(image, np.ndarray):
        return frame_from_array(image, kind)
    if isinstance(image, str | Path):
        return _read_file(Path(image))
    if hasattr(image, "convert"):
        return _frame_from_pil(image)
    if image is None:
        raise SourceError("None is not an image: OpenCV returns it for files that it cannot read; check the path")
    raise SourceError(
        f"{type(image).__name__} is not an image; give a file, a NumPy array or a PIL image (convert a torch tensor to "
        "an array: uint8, height x width x channels, BGR)"
    )


def _frame_from_pil(image: "Image") -> Frame:
    """Return a PIL image as upright BGR on white, like an image file."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Frame(upper_bits(np.asarray(image), "the image"), PixelFormat.GRAY)
    if image.mode in ("I", "F"):
        raise SourceError(f"the image has 32-bit values (mode {image.mode}); convert it to 8 bits per channel")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        return Frame(flatten(np.asarray(image.convert("RGBA"))[:, :, [2, 1, 0, 3]]), PixelFormat.BGR)
    return Frame(np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1]), PixelFormat.BGR)


def _read_file(path: Path) -> Frame:
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"there is no image {path} ({reason}); give an image file or an array") from error
    if path.is_dir():
        raise SourceError(f"{path} is a folder; give an image file, or classify the folder with `Classifier.stream`")
    if not is_file:
        raise SourceError(f"{path} is not a file; give an image file, or classify a device with `Classifier.stream`")
    return read_frame(path)
