"""Put a finished file or folder in its place, durably, and without a moment in which nothing is there."""

import ctypes
import errno
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from edge.storage.locks import locked_dir

AT_FDCWD, RENAME_EXCHANGE = -100, 2
ATTEMPTS = 100
"""Most often that other writers of the same folder are met between a look at it and the rename."""


def install_dir(partial: Path, path: Path) -> None:
    """Rename a folder to `path`. Whatever was there takes the name `partial`.

    Raises:
        OSError: it cannot be renamed; `path` is unchanged.
    """
    for attempt in range(ATTEMPTS):
        try:
            if os.path.lexists(path):
                with _undisturbed(path):
                    _exchange(partial, path)
            else:
                os.rename(partial, path)
            break
        except OSError as error:  # another writer came first, or has just removed it
            raced = error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
            if not raced or not partial.exists() or attempt == ATTEMPTS - 1:
                raise
    fsync(path.parent)


def fsync_tree(folder: Path) -> None:
    """Write a folder with all its files to the disk."""
    for parent, _, files in os.walk(folder):
        for file in files:
            fsync(Path(parent, file))
        fsync(Path(parent))


def fsync(path: Path) -> None:
    """Write a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that do not sync folders
            raise
    finally:
        os.close(descriptor)


def _undisturbed(path: Path) -> AbstractContextManager[None]:
    """Wait for processes that change files in the folder at `path`."""
    return locked_dir(path) if path.is_dir() and not path.is_symlink() else nullcontext()


def _exchange(partial: Path, path: Path) -> None:
    """Exchange two names atomically, where the file system can."""
    error = _renameat2(partial, path)
    if error in (errno.EINVAL, errno.ENOSYS):
        _exchange_in_steps(partial, path)
    elif error:
        raise OSError(error, os.strerror(error), str(path))


def _renameat2(partial: Path, path: Path) -> int:
    """Return the error number of the system call, 0 after success."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # a C library without it
        return errno.ENOSYS
    ctypes.set_errno(0)
    failed = call(AT_FDCWD, os.fsencode(partial), AT_FDCWD, os.fsencode(path), RENAME_EXCHANGE)
    return ctypes.get_errno() if failed else 0


def _exchange_in_steps(partial: Path, path: Path) -> None:
    """Exchange two names by three renames.

    A process killed after the first leaves the old content under its retired name, which is then kept for the user:
    restoring it by its name would trust whoever put it there.
    """
    retired = partial.with_suffix(".retired")
    os.rename(path, retired)
    try:
        os.rename(partial, path)
    except OSError:
        if not os.path.lexists(path):
            os.rename(retired, path)
        raise
    os.rename(retired, partial)
