"""Locks on files and folders. The system releases the locks of a process when it ends, killed or not.

A lock identifies its holder in every container and PID namespace; a process id does not.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_S = 0.05
FOLDER_LIMIT_S = 60.0
"""Longest wait for a folder's lock, which is held only briefly."""
UNSUPPORTED = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Errors of file systems without locks, or without locks on folders."""


@contextmanager
def locked_dir(folder: Path, limit_s: float = FOLDER_LIMIT_S) -> Iterator[None]:
    """Hold the exclusive lock of a folder: until the block ends, no `atomic_dir` replaces it.

    Raises:
        OSError: the folder does not exist, or another process kept its lock for `limit_s`.
    """
    descriptor = _lock(folder, os.O_RDONLY | os.O_DIRECTORY, lambda seconds: None, limit_s)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_file(path: Path, on_wait: Callable[[float], None], limit_s: float | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file that exists only while the lock is held or waited for.

    Args:
        path: The file; it contains the process id of the holder, for messages.
        on_wait: Called repeatedly while another process holds the lock, with the seconds waited so far.
        limit_s: Longest wait; None waits without a limit.

    Raises:
        OSError: the file cannot be created, or another process kept the lock for `limit_s`.
    """
    descriptor = _lock(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, on_wait, limit_s)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def holder(path: Path) -> str:
    """Return the process id in a lock's file, in the holder's PID namespace; empty if it is unknown."""
    try:
        return path.read_text()[:20]
    except (OSError, ValueError):
        return ""


def try_lock(descriptor: int) -> bool:
    """Try to lock an open file or folder exclusively; return False if another process holds the lock.

    Raises:
        OSError: the file system does not support locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Check that an open file or folder is the one at `path`."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    return False


def _lock(path: Path, flags: int, on_wait: Callable[[float], None], limit_s: float | None) -> int:
    """Open and lock `path`; repeat if it was replaced or removed before it was locked."""
    started = time.monotonic()
    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            while not _try_lock_where_supported(descriptor):
                waited = time.monotonic() - started
                if limit_s is not None and waited >= limit_s:
                    raise TimeoutError(errno.ETIMEDOUT, f"another process kept its lock for {limit_s:g} s", str(path))
                on_wait(waited)
                time.sleep(POLL_S)
            if is_at(descriptor, Path(os.path.realpath(path))):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _try_lock_where_supported(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return True
        raise
