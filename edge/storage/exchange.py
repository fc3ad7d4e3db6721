"""Durable installation of a complete folder: at every moment, the old or the new one exists."""

import ctypes
import errno
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from edge.storage.locks import locked_dir

AT_FDCWD, RENAME_EXCHANGE = -100, 2
ATTEMPTS = 100
"""Attempts to rename a folder that other processes write at the same time."""


def install_dir(partial: Path, path: Path) -> None:
    """Rename a folder to `path`; an existing file or folder is renamed to `partial`.

    Raises:
        OSError: the folder cannot be renamed; `path` is unchanged.
    """
    for attempt in range(ATTEMPTS):
        try:
            if os.path.lexists(path):
                with _undisturbed(path):
                    _exchange(partial, path)
            else:
                os.rename(partial, path)
            break
        except OSError as error:  # another process created or removed it meanwhile
            raced = error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
            if not raced or not partial.exists() or attempt == ATTEMPTS - 1:
                raise
    fsync(path.parent)


def fsync_tree(folder: Path) -> None:
    """Flush a folder with all its files to disk."""
    for parent, _, files in os.walk(folder):
        for file in files:
            fsync(Path(parent, file))
        fsync(Path(parent))


def fsync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # from file systems that cannot sync folders
            raise
    finally:
        os.close(descriptor)


def _undisturbed(path: Path) -> AbstractContextManager[None]:
    """Hold the lock of the folder at `path`, to wait for processes that change its files."""
    return locked_dir(path) if path.is_dir() and not path.is_symlink() else nullcontext()


def _exchange(partial: Path, path: Path) -> None:
    """Exchange two names; atomically if the file system supports that."""
    error = _renameat2(partial, path)
    if error in (errno.EINVAL, errno.ENOSYS):
        _exchange_in_steps(partial, path)
    elif error:
        raise OSError(error, os.strerror(error), str(path))


def _renameat2(partial: Path, path: Path) -> int:
    """Return the error number of the system call; 0 for success."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # a C library without it
        return errno.ENOSYS
    ctypes.set_errno(0)
    failed = call(AT_FDCWD, os.fsencode(partial), AT_FDCWD, os.fsencode(path), RENAME_EXCHANGE)
    return ctypes.get_errno() if failed else 0


def _exchange_in_steps(partial: Path, path: Path) -> None:
    """Exchange two names by three renames.

    If the process is killed after the first, the old content is kept under its retired name. It is not restored
    automatically, since any other process may have created a folder of that name.
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
