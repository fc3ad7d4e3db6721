"""A file of lines that survives kills, full disks and logrotate, and rotates itself by size or age."""

import errno
import json
import logging
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic

from edge.errors import OutputError

PAGE_BYTES = 4096
"""The system writes page by page, and a kill may come between two pages."""
USUAL_LINE_BYTES = 512
KEPT_FILES = 7
"""Former files that are kept."""
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "s": 1, "m": 60, "h": 3600, "d": 86400}
SIZES = ("kB", "MB", "GB")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Limits of a file of lines: it is renamed to FILE.1, the former FILE.1 to FILE.2, and the oldest is removed."""

    max_bytes: float | None = None
    max_age_s: float | None = None


def parse_rotation(text: str) -> Rotation:
    """Parse the limit of a file: a size such as `100MB`, or an age such as `1d`.

    Raises:
        OutputError: it is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-zA-Z]+)", text)
    limit = float(match[1]) * UNITS.get(match[2], 0) if match else 0
    if match is None or not limit:
        raise OutputError(
            f"{text!r} is not a size or an age; give a number above 0 with {', '.join(UNITS)}, such as 100MB or 1d"
        )
    return Rotation(max_bytes=limit) if match[2] in SIZES else Rotation(max_age_s=limit)


class LinesFile:
    """Lines at the end of a file or pipe. Each is written whole or not at all, even if the process is killed.

    A file that is renamed or removed is created again, a truncated one is continued at its start. A pipe is opened when
    the first line is written, which waits for a reader, and again after its reader went away.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, rotation: Rotation | None = None) -> None:
        """Store the arguments; `overwrite` empties the file when it is opened."""
        self._path, self._overwrite = Path(os.path.realpath(path)), overwrite
        self._rotation = rotation or Rotation()
        self._descriptor: int | None = None
        self._is_regular, self._expires_s = True, float("inf")
        self._is_stuck = False
        """True since a rotation failed, until one succeeds."""

    def open(self) -> None:
        """Open a file, or create it; a pipe is opened later. An unfinished line at the end gets its newline.

        Raises:
            OSError: it cannot be opened.
        """
        if not self._path.is_fifo():
            self._open()

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, each of which ends in a newline.

        Raises:
            OSError: they do not fit, the file cannot be created again, or a pipe's reader went away. The file
                still ends with a whole line.
        """
        if self._is_regular:
            self._follow(sum(map(len, lines)))
        if self._descriptor is None:
            self._open()
        try:
            if self._is_regular:
                self._append(lines)
            else:
                self._send(lines)
        except OSError as error:
            error.filename = str(self._path)  # the error of a full disk does not name the file
            raise

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "LinesFile":
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> None:
        flags = os.O_RDWR if self._path.is_file() or not self._path.exists() else os.O_WRONLY
        self._descriptor = os.open(self._path, flags | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._is_regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        if not self._is_regular:
            return
        if self._overwrite:
            os.ftruncate(self._descriptor, 0)
            self._overwrite = False
        if not _ends_line(self._descriptor):  # the system stopped in the middle of a line
            os.write(self._descriptor, b"\n")
        if self._rotation.max_age_s is not None:
            self._expires_s = monotonic() + self._rotation.max_age_s - _age_s(self._descriptor)

    def _follow(self, more_bytes: int) -> None:
        """Close a file that is no longer at its path, and put aside a file that reaches its limit."""
        if self._descriptor is None:
            return
        opened = os.fstat(self._descriptor)
        try:
            if not os.path.samestat(opened, os.stat(self._path)):
                self.close()
                return
        except FileNotFoundError:
            self.close()
            return
        is_large = self._rotation.max_bytes is not None and opened.st_size + more_bytes > self._rotation.max_bytes
        if opened.st_size and (is_large or monotonic() >= self._expires_s):
            self._rotate()

    def _rotate(self) -> None:
        """Put the file aside. If that is impossible, as in a folder of another user, it grows on."""
        try:
            self._rename()
        except OSError as error:
            if not self._is_stuck:
                log.warning("%s cannot be rotated, and grows on: %s", self._path, error)
            self._is_stuck = True
        else:
            self._is_stuck = False
            self.close()

    def _rename(self) -> None:
        """Rename the file to FILE.1, and former ones up to the first free number, so that a failure repeats no move."""
        numbers = range(1, KEPT_FILES)
        free = next((number for number in numbers if not self._numbered(number).exists()), KEPT_FILES)
        for number in range(free - 1, 0, -1):
            os.replace(self._numbered(number), self._numbered(number + 1))
        os.replace(self._path, self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _append(self, lines: Sequence[bytes]) -> None:
        assert self._descriptor is not None, "write opens the file"  # noqa: S101 - for mypy
        data = align(lines, os.fstat(self._descriptor).st_size)
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            if unfinished := written - (data.rfind(b"\n", 0, written) + 1):
                os.ftruncate(self._descriptor, max(0, os.fstat(self._descriptor).st_size - unfinished))
            raise

    def _send(self, lines: Sequence[bytes]) -> None:
        """Write to a pipe or device line by line: a pipe takes up to `PAGE_BYTES` whole."""
        assert self._descriptor is not None, "write opens the pipe"  # noqa: S101 - for mypy
        try:
            for line in lines:
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            if error.errno == errno.EPIPE:
                self.close()
            raise


def align(lines: Sequence[bytes], position: int) -> bytes:
    """Join lines for a position in a file, with blanks so that none lies on two pages; JSON allows them.

    A kill divides a write only where a page ends, and so never a line. A line ends with blanks where there is no room
    left on its page for another of usual length; a longer one begins with them.
    """
    parts = []
    for line in lines:
        room = -position % PAGE_BYTES
        if room < len(line) <= PAGE_BYTES:
            line = b" " * room + line
        room = -(position + len(line)) % PAGE_BYTES
        if room < USUAL_LINE_BYTES:
            line = line[:-1] + b" " * room + b"\n"
        parts.append(line)
        position += len(line)
    return b"".join(parts)


def _ends_line(descriptor: int) -> bool:
    """Check that a file ends with a newline, or with blanks after one."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, PAGE_BYTES, max(0, size - PAGE_BYTES))
    return not tail.rpartition(b"\n")[2].strip(b" ")


def _age_s(descriptor: int) -> float:
    """Return the age of a file by the time of its first record; 0 where there is none."""
    try:
        first = json.loads(os.pread(descriptor, 1 << 16, 0).partition(b"\n")[0])
        begun = datetime.fromisoformat(first["time"].replace("Z", "+00:00"))
        return max(0.0, (datetime.now(timezone.utc) - begun).total_seconds())
    except (ValueError, TypeError, KeyError, AttributeError):
        return 0.0
