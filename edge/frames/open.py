"""Sources by name, and single frames from whatever holds an image."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.frames.base import Frame, FrameSource, PixelFormat, frame_from_array
from edge.frames.files import IMAGE_SUFFIXES, FileSource, files_in, read_frame
from edge.frames.video import PipelineSource, VideoSource

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_CAMERA_INDEX = 2**31 - 1


def open_source(name: str | int | Path) -> FrameSource:
    """Open a source of frames.

    Args:
        name: A camera's index (`0`) or device (`/dev/video0`), a stream (`rtsp://...`), a GStreamer pipeline
            (`... ! appsink`), a video file, or a folder of images (or of `.npy` arrays, for networks that read arrays).

    Raises:
        SourceError: it does not exist or gives no frames.
    """
    name = str(name)
    if name.isascii() and name.isdigit():
        return VideoSource(min(int(name), MAX_CAMERA_INDEX), f"camera {name}")
    if " ! " in name:
        return PipelineSource(name)
    if "://" in name or name.startswith("/dev/"):
        return VideoSource(name, name)
    path = Path(name)
    if name and path.is_dir():
        return FileSource(files_in(path), name)
    if not name or not path.is_file():
        raise SourceError(
            f"there is no video or folder {name}; "
            "give a file, a folder, a camera index, a stream address or a GStreamer pipeline (... ! appsink)"
        )
    return FileSource([path], name) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(name, name)


def open_frame(image: "str | Path | NDArray[Any] | Frame | Image", kind: Literal["image", "array"]) -> Frame:
    """Return a frame of a file, an array, a frame or a PIL image, for networks that read images or arrays.

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
    raise SourceError(
        f"{type(image).__name__} is not an image; give a file, a NumPy array or a PIL image "
        "(OpenCV returns None for files that it cannot read)"
    )


def _frame_from_pil(image: "Image") -> Frame:
    """Return a PIL image as BGR, rotated as its EXIF data say, as OpenCV does when it reads a file."""
    from PIL import ImageOps

    rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return Frame(np.ascontiguousarray(rgb[:, :, ::-1]), PixelFormat.BGR)


def _read_file(path: Path) -> Frame:
    if not path.is_file():
        raise SourceError(f"there is no image {path}; give an image file or an array")
    return read_frame(path)
