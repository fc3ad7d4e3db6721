"""A folder of collected files to label, bounded in number and size.

A file directly in the folder is unsorted: nobody has labelled it, and neither `edge record` nor `edge.training` reads
it. Whoever labels it moves it into a subfolder named like its class; from then on they read it, and the reservoir
leaves it alone. The state is in the names, so that another run can continue with the folder; `index.jsonl` has a line
for every file that was ever collected.
"""

import glob
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from edge.errors import OutputError
from edge.storage import locked_file, remove_stale, write_file

INDEX, LOCK = "index.jsonl", ".lock"
MIN_FREE_BYTES = 1 << 29
"""Space on the disk that is left to others."""
RESCAN_S = 10.0
"""Seconds after which files that somebody has sorted make room for others."""
MAX_LABEL = 40
"""Characters of the label in a file's name."""
NAME = re.compile(r".*_(?P<margin>[01]\.\d{4})_\d{8}T\d{9}Z\.\w+", re.DOTALL)

log = logging.getLogger(__name__)


class Unsorted(NamedTuple):
    """A file that nobody has moved yet; the largest is replaced first."""

    margin: float
    path: Path
    size: int


class Reservoir:
    """The folder, whose files with the smallest margins stay.

    Attributes:
        limit: Margin that a further file must stay below; infinite while there is room.
    """

    def __init__(self, folder: Path, max_files: int, max_bytes: int) -> None:
        """Store the arguments; the limits are of unsorted files."""
        self.limit = math.inf
        self._folder, self._max_files, self._max_bytes = folder, max_files, max_bytes
        self._lock = ExitStack()
        self._scanned_s = 0.0
        self._was_full = False

    def open(self) -> None:
        """Create or take over the folder.

        Raises:
            OutputError: it holds something else, or another process collects into it.
        """
        folder = self._folder
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is not a folder; give a folder to collect frames in")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / INDEX).is_file() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise OutputError(
                f"{folder} is not empty, and no frames were collected in it before (it has no {INDEX}); give another "
                "folder"
            )
        try:
            self._lock.enter_context(locked_file(folder / LOCK, lambda seconds: None, limit_s=0))
        except TimeoutError:
            raise OutputError(f"another process collects frames in {folder}; give each a folder of its own") from None
        remove_stale(folder)
        (folder / INDEX).touch()
        self._shrink()

    def close(self) -> None:
        """Let other processes use the folder. Idempotent."""
        self._lock.close()

    def rescan(self) -> None:
        """Look for files that were sorted, once in a while."""
        if monotonic() - self._scanned_s >= RESCAN_S:
            self._shrink()

    def add(self, margin: float, name: str, content: bytes, line: Mapping[str, Any]) -> None:
        """Write a file and its line in the index, then remove files above the limits.

        Nothing is written where the disk is nearly full, and no copy of a file: `python -m calibration` refuses copies.

        Raises:
            OSError: it cannot be written; nothing is left behind.
        """
        if margin >= self.limit or self._holds(name, content) or not self._has_space():
            return
        write_file(self._folder / name, content)
        with (self._folder / INDEX).open("a") as index:
            index.write(json.dumps({"collected": name, "margin": round(margin, 6), **line}) + "\n")
        self._shrink()

    def _shrink(self) -> None:
        """Remove the files of the largest margins above the limits."""
        files = self._files()
        total = sum(file.size for file in files)
        while files and (len(files) > self._max_files or total > self._max_bytes):
            farthest = files.pop()
            farthest.path.unlink(missing_ok=True)
            total -= farthest.size
        largest = max((file.size for file in files), default=0)
        has_room = len(files) < self._max_files and total + largest <= self._max_bytes
        self.limit = math.inf if has_room or not files else files[-1].margin
        self._scanned_s = monotonic()

    def _files(self) -> list[Unsorted]:
        """Return the unsorted files, the smallest margin first."""
        files = []
        for entry in os.scandir(self._folder):
            match = NAME.fullmatch(entry.name)
            if match and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # just moved
                    files.append(Unsorted(float(match["margin"]), Path(entry.path), entry.stat().st_size))
        return sorted(files)

    def _holds(self, name: str, content: bytes) -> bool:
        """Check for the same content under the same label and margin, sorted or not."""
        alike = f"{glob.escape(name.rpartition('_')[0])}_*"
        for path in self._folder.rglob(alike):
            with suppress(FileNotFoundError):  # just moved
                if path.stat().st_size == len(content) and path.read_bytes() == content:
                    return True
        return False

    def _has_space(self) -> bool:
        is_full = shutil.disk_usage(self._folder).free < MIN_FREE_BYTES
        if is_full and not self._was_full:
            log.warning(
                "no more frames are collected in %s: the disk has less than %d MiB left; remove files",
                self._folder, MIN_FREE_BYTES >> 20,
            )  # fmt: skip
        self._was_full = is_full
        return not is_full


def file_name(label: str, margin: float, moment: str, suffix: str) -> str:
    """Return the name of a collected file: predicted label, margin, and time of capture in ISO 8601."""
    shown, digits = re.sub(r"[^\w-]+", "-", label)[:MAX_LABEL], re.sub(r"\W", "", moment)
    return f"{shown}_{margin:.4f}_{digits}{suffix}"
