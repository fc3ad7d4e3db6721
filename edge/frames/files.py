"""Frames from files: images and arrays. `edge.frames.images` documents the supported images.

A folder contains all images and arrays below it. Links to folders are followed, each folder is read once, and hidden
files and folders are ignored. A warning counts the files of other kinds, such as GIF and HEIC.
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.frames.base import Frame, PixelFormat
from edge.frames.images import IMAGE_SUFFIXES, decode_image

ARRAY_SUFFIX = ".npy"

log = logging.getLogger(__name__)


class FileSource:
    """Images or arrays, one file each."""

    is_live = False

    def __init__(self, paths: Sequence[Path], name: str, *, skip_bad: bool = False) -> None:
        """Read these files in order.

        Args:
            paths: Files.
            name: The folder that contains them, or the single file.
            skip_bad: Leave out files that cannot be read, with a warning each, and count them in `damaged`.
        """
        self.frames: int | None = len(paths)
        self.damaged = 0
        self._folder, self._skip_bad = Path(name), skip_bad
        self._next = iter(paths)

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next image, BGR, or array; None after the last one.

        Raises:
            SourceError: a file cannot be read; with `skip_bad`, none of the files can.
        """
        for path in self._next:
            try:
                frame = read_frame(path)
            except SourceError as error:
                if not self._skip_bad:
                    raise
                self.damaged += 1
                log.warning("left out: %s", error)
                continue
            position = path.name if path == self._folder else path.relative_to(self._folder).as_posix()
            return Frame(frame.pixels, frame.format, position)
        if self.damaged == self.frames:
            raise SourceError(f"none of the {self.frames} files of {self._folder} can be read; give intact images")
        return None

    def close(self) -> None:
        """Do nothing: each file is closed after it is read."""


def files_in(folder: Path) -> list[Path]:
    """Return all images and arrays below a folder, sorted, and warn of files of other kinds.

    Raises:
        SourceError: a folder cannot be listed.
    """
    files, others = scan(folder)
    _warn(folder, others)
    return files


def open_folder(folder: Path, name: str, *, skip_bad: bool) -> FileSource:
    """Return the images and arrays below a folder as a source, and warn of files of other kinds.

    Raises:
        SourceError: a folder cannot be listed, or there are no files that can be read.
    """
    files, others = scan(folder)
    if not files:
        raise SourceError(
            f"{name} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no {ARRAY_SUFFIX} arrays"
            + (f", but {counts(others)}" if others else "")
            + "; add some, or give another folder"
        )
    _warn(folder, others)
    return FileSource(files, name, skip_bad=skip_bad)


def _warn(folder: Path, others: Counter[str]) -> None:
    if others:
        log.warning("%s: these files are not images or arrays and are ignored: %s", folder, counts(others))


def counts(kinds: Counter[str]) -> str:
    """Return the number of files of each kind, for messages."""
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def scan(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return all images and arrays below a folder, sorted, and the number of other files by kind.

    Raises:
        SourceError: a folder cannot be listed.
    """
    suffixes = (*IMAGE_SUFFIXES, ARRAY_SUFFIX)
    files: list[Path] = []
    others: Counter[str] = Counter()
    visited: set[tuple[int, int]] = set()
    for current, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        status = os.stat(current)
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above it, or a second link
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(current) / name for name in names if not name.startswith(".")):
            if path.suffix.lower() in suffixes and path.is_file():
                files.append(path)
            else:
                others["broken links" if path.is_symlink() and not path.exists() else path.suffix or "no suffix"] += 1
    return sorted(files), others


def _refuse_folder(error: OSError) -> None:
    raise SourceError(f"the folder {error.filename} cannot be listed: {error.strerror}; change its permissions")


@cache
def silence_opencv() -> None:
    """Suppress OpenCV's messages on stderr; a failure is reported once, by an exception."""
    set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # 4.x, 5.x
    set_level(0)


def read_frame(path: Path) -> Frame:
    """Read one image (BGR) or array.

    Raises:
        SourceError: the file cannot be read; the message has the reason.
    """
    if path.suffix.lower() == ARRAY_SUFFIX:
        return Frame(_read_array(path), PixelFormat.ARRAY)
    silence_opencv()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}; check its permissions and the disk") from error
    except MemoryError:
        raise SourceError(f"{path} cannot be read as an image: out of memory; make it smaller") from None
    return Frame(decode_image(content, path), PixelFormat.BGR)


def _read_array(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"its elements are {array.dtype}")
        with np.errstate(over="ignore"):  # infinity is refused when the array is preprocessed
            return np.asarray(array, dtype=np.float32)
    except Exception as error:  # a damaged header can raise anything
        why = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path} is not an array of numbers ({why}); remove or replace it") from error
