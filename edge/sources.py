"""Where frames come from: camera, video file, network stream or folder, behind one way to name them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.protocols import FrameSource

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
ARRAY_SUFFIX = ".npy"
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


def open_source(name: str) -> FrameSource:
    """Open a source by its name.

    Args:
        name: A camera's index (`0`) or device (`/dev/video0`), a stream (`rtsp://...`), a video file, or a folder
            of images (or of `.npy` arrays, for networks that read arrays).

    Raises:
        SourceError: it is not there or gives no frames.
    """
    if name.isdigit():
        return VideoSource(int(name), f"camera {name}")
    if "://" in name or name.startswith("/dev/"):
        return VideoSource(name, name)
    path = Path(name)
    if path.is_dir():
        return FolderSource(path)
    if not path.is_file():
        raise SourceError(
            f"there is no video or folder {name}; give a file, a folder, a camera index or a stream address"
        )
    return VideoSource(str(path), name)


class VideoSource:
    """A camera, stream or video file through OpenCV."""

    def __init__(self, address: int | str, name: str) -> None:
        """Open it; `name` is what messages call it.

        Raises:
            SourceError: it cannot be opened.
        """
        self._name = name
        _silence_opencv()
        self._capture = cv2.VideoCapture(address)
        if not self._capture.isOpened():
            hint = (
                "is it plugged in, and is another program using it?" if isinstance(address, int) else "is it a video?"
            )
            raise SourceError(f"{name} cannot be opened; {hint}")
        self.is_live = not Path(str(address)).is_file()
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frames = None if self.is_live or count <= 0 else count
        self._read = 0

    def read(self, out: NDArray[Any] | None) -> NDArray[Any] | None:
        """Return the next frame, BGR; None at the end of a file.

        Raises:
            SourceError: a camera stopped, or a file ended before its announced number of frames.
        """
        found, frame = self._capture.read(out)
        if found:
            self._read += 1
            return frame
        if self.is_live:
            raise SourceError(f"{self._name} stopped giving frames after {self._read}; check the cable or the stream")
        if self.frames is None or self._read < self.frames:
            expected = f" of {self.frames}" if self.frames else ""
            raise SourceError(
                f"{self._name} ended after {self._read}{expected} frames; the file is damaged or was cut off"
            )
        return None

    def close(self) -> None:
        """Let go of the device or file."""
        self._capture.release()


class FolderSource:
    """A folder of images or arrays, in the order of their paths."""

    is_live = False

    def __init__(self, folder: Path) -> None:
        """List the files.

        Raises:
            SourceError: the folder has none.
        """
        self.paths: Sequence[Path] = files_in(folder)
        if not self.paths:
            raise SourceError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no {ARRAY_SUFFIX} arrays")
        self.frames: int | None = len(self.paths)
        self._next = iter(self.paths)

    def read(self, out: NDArray[Any] | None) -> NDArray[Any] | None:
        """Return the next image, BGR, or array; None after the last one.

        Raises:
            SourceError: a file cannot be read.
        """
        path = next(self._next, None)
        return None if path is None else read_frame(path)

    def close(self) -> None:
        """Nothing to let go of."""


def _silence_opencv() -> None:
    """Keep OpenCV's own words off stderr: what is wrong with a source is ours to say, once."""
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
        return np.asarray(np.load(path), dtype=np.float32)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} is no array of numbers ({error}); remove or replace it") from error


def _read_image(path: Path) -> NDArray[Any]:
    try:
        content = path.read_bytes()
        is_cut_off = content.startswith(JPEG_START) and JPEG_END not in content[-64:]  # OpenCV fills the rest in gray
        frame = None if is_cut_off else cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise SourceError(f"{path} cannot be read as an image ({error}); remove or replace it") from error
    if frame is None:
        raise SourceError(f"{path} cannot be read as an image; remove or replace it")
    return frame
