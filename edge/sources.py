"""Where frames come from: camera, video file, stream, GStreamer pipeline or folder, behind one way to name them."""

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.preprocess import Nv12
from edge.protocols import FrameSource

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
ARRAY_SUFFIX = ".npy"
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
HIGHEST_CAMERA = 2**31 - 1
FORMAT = re.compile(r"\bformat\s*=\s*(?:\(string\)\s*)?[\"{\s]*(\w+)")
"""What says in a GStreamer pipeline how pixels lie; the last one counts."""
FORMATS = ("NV12", "BGRx", "BGRA", "BGR", "GRAY8")
SHORT = 0.95
"""Share of the announced frames up to which a video counts as cut off."""


def open_source(name: str) -> FrameSource:
    """Open a source by its name.

    Args:
        name: A camera's index (`0`) or device (`/dev/video0`), a stream (`rtsp://...`), a GStreamer pipeline
            (`... ! appsink`), a video file, or a folder of images (or of `.npy` arrays, for networks that read arrays).

    Raises:
        SourceError: it is not there or gives no frames.
    """
    if name.isascii() and name.isdigit():
        return VideoSource(min(int(name), HIGHEST_CAMERA), f"camera {name}")
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
    return FileSource([path], name) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(str(path), name)


class VideoSource:
    """A camera, stream or video file through OpenCV."""

    def __init__(self, address: int | str, name: str, api: int = cv2.CAP_ANY) -> None:
        """Open it; `name` is what messages call it, `api` the part of OpenCV that is to read it.

        Raises:
            SourceError: it cannot be opened.
        """
        self._name = name
        self._reading = threading.Lock()
        _silence_opencv()
        self._capture = cv2.VideoCapture(address, api)
        if not self._capture.isOpened():
            raise SourceError(f"{name} cannot be opened; {_hint(address)}")
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.is_live = count <= 0 and (api == cv2.CAP_GSTREAMER or not Path(str(address)).is_file())
        self.frames = count if count > 0 else None
        self._read = 0

    def read(self, out: NDArray[Any] | None) -> NDArray[Any] | None:
        """Return the next frame, BGR; None at the end of a file.

        Raises:
            SourceError: a camera stopped, or a file ended before its announced number of frames.
        """
        with self._reading:
            found, frame = self._capture.read(out)
        if found:
            self._read += 1
            return frame
        if self.is_live:
            raise SourceError(f"{self._name} stopped giving frames after {self._read}; check the cable or the stream")
        if self._read <= SHORT * (self.frames or 0):  # containers announce an estimate, a frame more or less
            raise SourceError(
                f"{self._name} ended after {self._read} of {self.frames} frames; the file is damaged or was cut off"
            )
        return None

    def close(self) -> None:
        """Let go of the device or file; one that hangs in a read is left to the end of the process."""
        if self._reading.acquire(timeout=1):
            self._capture.release()
            self._reading.release()


class PipelineSource(VideoSource):
    """A GStreamer pipeline, as for the CSI cameras of a Jetson: what it ends in is taken as it is, NV12 included."""

    def __init__(self, pipeline: str) -> None:
        """Start it.

        Raises:
            SourceError: it does not start, ends in another format, or OpenCV has no GStreamer.
        """
        self._ends_in = ["BGR", *FORMAT.findall(pipeline)][-1]
        if self._ends_in not in FORMATS:
            raise SourceError(
                f"the last format of the GStreamer pipeline is {self._ends_in}; "
                f"end it in video/x-raw,format={FORMATS[0]} (or {', '.join(FORMATS[1:])}) ! appsink"
            )
        super().__init__(pipeline, "the GStreamer pipeline", cv2.CAP_GSTREAMER)

    def read(self, out: NDArray[Any] | None) -> NDArray[Any] | None:
        """Return the next frame: BGR, BGRx, gray or NV12.

        Raises:
            SourceError: the pipeline stopped, or gives another format.
        """
        frame = super().read(out)
        with self._reading:
            height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if frame is None or frame.shape[0] == height:
            return frame
        if self._ends_in != "NV12":
            raise SourceError(
                f"{self._name} gives frames of shape {frame.shape} for pictures {height} high; "
                f"end it in video/x-raw,format={self._ends_in} ! appsink"
            )
        return frame if isinstance(frame, Nv12) else frame.view(Nv12)


class FileSource:
    """Images or arrays, one file each."""

    is_live = False

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        """Take the files in the order they are to be read; `name` is what messages call them.

        Raises:
            SourceError: there are none.
        """
        if not paths:
            raise SourceError(f"{name} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no {ARRAY_SUFFIX} arrays")
        self.frames: int | None = len(paths)
        self._next = iter(paths)

    def read(self, out: NDArray[Any] | None) -> NDArray[Any] | None:
        """Return the next image, BGR, or array; None after the last one.

        Raises:
            SourceError: a file cannot be read.
        """
        path = next(self._next, None)
        return None if path is None else read_frame(path)

    def close(self) -> None:
        """Nothing to let go of."""


def _hint(address: int | str) -> str:
    if isinstance(address, str) and " ! " in address:
        if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            return "does it run with gst-launch-1.0, and does it end in appsink?"
        return "this OpenCV was built without GStreamer; the python3-opencv of JetPack and Debian has it"
    if isinstance(address, int) or address.startswith("/dev/"):
        return "is it plugged in, and is another program using it?"
    return "is the address right, and is somebody sending?" if "://" in address else "is it a video?"


def _silence_opencv() -> None:
    """Keep OpenCV's and FFmpeg's own words off stderr: what is wrong with a source is ours to say, once."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # 4.x, 5.x
    set_level(0)


def files_in(folder: Path) -> list[Path]:
    """Return all images and arrays below a folder, sorted; what is hidden, such as `.thumbnails`, is left out."""
    wanted = (*IMAGE_SUFFIXES, ARRAY_SUFFIX)
    files = (path for path in folder.rglob("*") if path.suffix.lower() in wanted and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def read_frame(path: Path) -> NDArray[Any]:
    """Read one image (BGR) or array.

    Raises:
        SourceError: the file is damaged or of another kind.
    """
    return _read_array(path) if path.suffix.lower() == ARRAY_SUFFIX else _read_image(path)


def _read_array(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"its elements are {array.dtype}")
        return np.asarray(array, dtype=np.float32)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} is no array of numbers ({error}); remove or replace it") from error


def _read_image(path: Path) -> NDArray[Any]:
    try:
        content = path.read_bytes()
        # OpenCV would fill the rest of a photo that is cut off in gray. A thumbnail's end comes before the last scan.
        is_cut_off = content.startswith(JPEG_START) and JPEG_END not in content[max(content.rfind(JPEG_SCAN), 0) :]
        frame = None if is_cut_off else cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        frame = None
    if frame is None:
        raise SourceError(f"{path} cannot be read as an image; remove or replace it")
    return frame
