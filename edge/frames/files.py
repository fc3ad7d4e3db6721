"""Frames from files: images and arrays."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.frames.base import Frame, PixelFormat

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
ARRAY_SUFFIX = ".npy"
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


class FileSource:
    """Images or arrays, one file each."""

    is_live = False

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        """List the files in reading order; `name` stands for them in messages.

        Raises:
            SourceError: there are none.
        """
        if not paths:
            raise SourceError(f"{name} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no {ARRAY_SUFFIX} arrays")
        self.frames: int | None = len(paths)
        self._next = iter(paths)

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next image, BGR, or array; None after the last one.

        Raises:
            SourceError: a file cannot be read.
        """
        path = next(self._next, None)
        return None if path is None else read_frame(path)

    def close(self) -> None:
        """Do nothing: every file is closed after it is read."""


def files_in(folder: Path) -> list[Path]:
    """Return all images and arrays below a folder, sorted. Hidden files and folders are skipped."""
    suffixes = (*IMAGE_SUFFIXES, ARRAY_SUFFIX)
    files = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


@cache
def silence_opencv() -> None:
    """Keep messages of OpenCV and FFmpeg off stderr; a failing source is reported once, by an exception."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # 4.x, 5.x
    set_level(0)


def read_frame(path: Path) -> Frame:
    """Read one image (BGR) or array.

    Raises:
        SourceError: the file is damaged or of another kind.
    """
    if path.suffix.lower() == ARRAY_SUFFIX:
        return Frame(_read_array(path), PixelFormat.ARRAY)
    return Frame(_read_image(path), PixelFormat.BGR)


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
    silence_opencv()
    try:
        content = path.read_bytes()
        # OpenCV fills the missing rest of a truncated photo with gray. A thumbnail's end comes before the last scan.
        truncated = content.startswith(JPEG_START) and JPEG_END not in content[max(content.rfind(JPEG_SCAN), 0) :]
        pixels = None if truncated else cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        pixels = None
    if pixels is None:
        raise SourceError(f"{path} cannot be read as an image; remove or replace it")
    return pixels
