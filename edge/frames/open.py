"""Sources by name, and single frames from files, arrays and PIL images."""

import os
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.frames.address import SourceAddress, parse_address
from edge.frames.base import CHANNEL_FORMATS, Frame, FrameSource, PixelFormat, frame_from_array
from edge.frames.camera import CameraSource
from edge.frames.elements import check_available
from edge.frames.files import FileSource, open_folder, read_frame
from edge.frames.gstreamer import GStreamerSource
from edge.frames.guarded import GuardedSource
from edge.frames.images import IMAGE_SUFFIXES, flatten, upper_bits
from edge.frames.jetson import csi_pipeline, decodable_codec, file_pipeline, stream_pipeline
from edge.frames.pattern import PatternSource
from edge.frames.transformed import Transformed
from edge.frames.video import VideoSource

if TYPE_CHECKING:
    from PIL.Image import Image


def open_source(name: str | int | Path, *, skip_bad: bool = False) -> FrameSource:
    """Open a source of frames.

    Args:
        name: A camera's index (`0`) or device (`/dev/video0`), a stream (`rtsp://...`), a GStreamer pipeline
            (`... ! appsink`), a video file or pipe (`/dev/stdin`), a folder of images (or of `.npy` arrays, for
            networks that read arrays), or a test pattern (`test://`). Options follow as query parameters:
            `0?size=1280x720&rotate=180`.
        skip_bad: Leave out damaged images of a folder and damaged frames of a video, and count them in the source's
            `damaged`, instead of failing at the first. Live sources always leave them out.

    Raises:
        AddressError: the address or an option is invalid, or the source does not support an option.
        SourceError: the source does not exist or gives no frames.
        UnavailableError: a library or a permission is missing.
    """
    if not isinstance(name, str | int | Path):
        raise SourceError(
            f"{type(name).__name__} is not a source; give a name or number, or an object with `read`, `close`, "
            "`is_live` and `frames`"
        )
    address = parse_address(str(name))
    timeout_s = address.options.timeout_s
    if timeout_s is None or address.kind == "network":  # network sources have their own time limit
        return open_address(address, skip_bad=skip_bad)
    camera = GuardedSource(partial(open_address, address), address.public, timeout_s)
    camera.open()
    return camera


def open_address(address: SourceAddress, *, skip_bad: bool = False) -> FrameSource:
    """Open the source at an address, without a time limit for hanging reads of cameras.

    Raises:
        AddressError: the source does not support an option.
        SourceError: the source does not exist or gives no frames.
        UnavailableError: a library or a permission is missing.
    """
    options = address.options
    source: FrameSource
    if address.kind == "csi":
        pipeline = csi_pipeline(address)
        check_available(pipeline, address.public)
        return GStreamerSource(pipeline, address.public)  # the pipeline rotates and crops
    if address.kind == "network":
        return _open_stream(address, skip_bad=skip_bad)
    if address.kind == "camera":
        source = CameraSource(address.location, options)
    elif address.kind == "pipeline":
        source = GStreamerSource(address.location)
    elif address.kind == "test":
        source = PatternSource(options)
    else:
        return _open_path(address, skip_bad=skip_bad)
    return _transformed(source, address)


def _open_path(address: SourceAddress, *, skip_bad: bool) -> FrameSource:
    """Open a file or folder."""
    try:
        mode = os.stat(address.location).st_mode
    except (OSError, ValueError) as error:
        raise SourceError(
            f"there is no video or folder {address.public} ({getattr(error, 'strerror', None) or error}); "
            "give a file, a folder, a camera index, a stream address or a GStreamer pipeline (... ! appsink)"
        ) from None
    path = Path(address.location)
    source: FrameSource
    if stat.S_ISDIR(mode):
        source = open_folder(path, address.location, skip_bad=skip_bad)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        source = FileSource([path], address.location, skip_bad=skip_bad)
    elif stat.S_ISREG(mode) and not skip_bad and (pipeline := file_pipeline(address)):
        return _transformed(GStreamerSource(pipeline, address.public), address, is_rotated=True)
    else:
        source = VideoSource(address, skip_bad=skip_bad)
    return _transformed(source, address)


def _open_stream(address: SourceAddress, *, skip_bad: bool) -> FrameSource:
    """Open a stream, or a file on a server; decode it in hardware if this machine can."""
    pipeline = stream_pipeline(address, address.options.codec)
    if pipeline is None:
        video = VideoSource(address, skip_bad=skip_bad)
        if not video.is_live or (pipeline := stream_pipeline(address, decodable_codec(video))) is None:
            return _transformed(video, address)
        video.close()
    return _transformed(GStreamerSource(pipeline, address.public), address, is_rotated=True)


def _transformed(source: FrameSource, address: SourceAddress, *, is_rotated: bool = False) -> FrameSource:
    """Return a source with the rotation and crop of its address."""
    rotate, crop = 0 if is_rotated else address.options.rotate, address.options.crop
    return Transformed(source, rotate, crop, address.public) if rotate or crop else source


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

    if 0 in image.size:
        raise SourceError(f"the image has {image.width} x {image.height} pixels; give one that is not empty")
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
