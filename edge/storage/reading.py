"""Bounded reads of regular files: a pipe, a device or a huge file is an error, not a hang."""

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path, *, follow_links: bool = True) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: the file does not exist, cannot be read, or is a folder, pipe, device or forbidden link.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # without O_NONBLOCK, opening a pipe waits for a writer
    descriptor = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, max_bytes: int, *, follow_links: bool = True) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: as for `open_regular`, or the file is larger than `max_bytes`.
    """
    with open_regular(path, follow_links=follow_links) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, max_bytes) + 1)  # a read allocates its whole argument
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"is larger than {max_bytes >> 20} MiB", str(path))
    return content


def sha256_of(path: Path) -> str:
    """Return the sha256 of a regular file as hexadecimal digits."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
