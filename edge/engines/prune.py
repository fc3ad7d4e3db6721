"""Removal of engines that were not used for long: every new library version adds engines to the cache."""

import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from edge.storage import remove_stale
from edge.storage.locks import is_at, try_lock

DAY_S = 86_400.0
MAX_UNUSED_S, MIN_UNUSED_S = 90 * DAY_S, DAY_S
"""Entries unused for longer than the first are removed, entries used within the second never."""
MAX_BYTES = 8 << 30
"""Total size above which the least recently used entries are removed."""


class _Entry(NamedTuple):
    """A file or folder of the cache."""

    last_used: float
    path: Path
    size: int


def prune(root: Path, now: float | None = None) -> list[Path]:
    """Remove old entries of this user from a cache, and leftovers of killed builds.

    Args:
        root: The cache.
        now: Seconds since 1970; by default the present.

    Returns:
        The removed entries.
    """
    now = time.time() if now is None else now
    with suppress(OSError):
        remove_stale(root)
    entries = sorted(entry for path in root.iterdir() if (entry := _entry(path)) is not None)
    total, removed = sum(entry.size for entry in entries), []
    for entry in entries:
        unused = now - entry.last_used
        if unused > MIN_UNUSED_S and (unused > MAX_UNUSED_S or total > MAX_BYTES) and _remove(entry.path):
            total -= entry.size
            removed.append(entry.path)
    return removed


def mark_used(entry: Path) -> None:
    """Set the time of last use of an entry to the present."""
    with suppress(OSError):  # a cache mounted read-only is not pruned
        os.utime(entry)


def _entry(path: Path) -> _Entry | None:
    """Return an entry of this user; None if it belongs to another user or was removed meanwhile."""
    with suppress(OSError):
        status = path.lstat()
        is_entry = stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)
        if is_entry and status.st_uid == os.getuid():
            files = list(path.iterdir()) if stat.S_ISDIR(status.st_mode) else [path]
            return _Entry(status.st_mtime, path, sum(file.lstat().st_size for file in files))
    return None


def _remove(path: Path) -> bool:
    """Rename an entry to a leftover, which no process reads, and remove it. Return False if it is in use."""
    leftover = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not try_lock(descriptor) or not is_at(descriptor, path):
            return False  # in use
        os.rename(path, leftover)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    with suppress(OSError):
        remove_stale(path.parent, path.name)
    return True
