"""Atomic writes: to a hidden `.partial`, which is then renamed. The next writer removes those of killed writers.

Each writer holds the lock of its partial file or folder: if the lock is free, the writer was killed.
"""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge.storage.exchange import fsync, fsync_tree, install_dir
from edge.storage.locks import UNSUPPORTED, is_at, try_lock


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file atomically.

    Raises:
        OSError: the disk is full or the folder is not writable; `path` is unchanged.
    """
    with atomic_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file; it replaces `path` if the block ends without an error, else it is removed.

    Raises:
        OSError: the disk is full, the folder is not writable, or `path` is not a regular file; `path` is unchanged.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "exists and is not a regular file", str(path))
    with _partial(path, is_folder=False) as partial:
        yield partial
        fsync(partial)
        os.replace(partial, path)
        fsync(path.parent)


@contextmanager
def atomic_dir(path: Path, mode: int = 0o777) -> Iterator[Path]:
    """Yield a temporary folder; it replaces `path` if the block ends without an error, else it is removed.

    If several processes write at the same time, the last wins.

    Args:
        path: The folder to write or replace.
        mode: Its permissions before the umask is applied.

    Raises:
        OSError: the disk is full or the parent folder is not writable; `path` is unchanged.
    """
    with _partial(path, is_folder=True, mode=mode) as partial:
        yield partial
        fsync_tree(partial)
        install_dir(partial, path)


def remove_stale(folder: Path, name: str | None = None) -> None:
    """Remove leftovers of killed writers from a folder; those of running writers are kept.

    Args:
        folder: The folder.
        name: Only remove leftovers of this file or folder; None for all.
    """
    names = ".+" if name is None else re.escape(name)
    pattern = re.compile(rf"\.(?P<name>{names})\.[0-9a-f]{{8}}\.(?P<kind>partial|retired)", re.DOTALL)
    for leftover in os.listdir(folder):
        match = pattern.fullmatch(leftover)
        if match and (match["kind"] == "partial" or os.path.lexists(folder / match["name"])):
            with suppress(OSError):  # another process removes it, or it belongs to another user
                _remove_if_stale(folder / leftover)


def find_retired(path: Path) -> Path | None:
    """Return the previous content of a missing `path`, left beside it by a writer killed between two renames.

    Any process that may write to the folder can create it, so it is shown to the user and never used.
    """
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.retired", re.DOTALL)
    with suppress(OSError, ValueError):
        return next((path.parent / name for name in os.listdir(path.parent) if pattern.fullmatch(name)), None)
    return None


@contextmanager
def _partial(path: Path, *, is_folder: bool, mode: int = 0o777) -> Iterator[Path]:
    """Yield a new locked file or folder beside `path`; it is removed when the block ends, if it still exists."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent, path.name)
        partial, descriptor = _create(path, is_folder=is_folder, mode=mode)
        try:
            yield partial
        finally:
            with suppress(OSError):
                _remove(partial)
            os.close(descriptor)
    except OSError as error:
        if error.filename is None:  # the error of a full disk does not name the file
            error.filename = str(path)
        raise


def _create(path: Path, *, is_folder: bool, mode: int) -> tuple[Path, int]:
    """Create and lock a file or folder with a unique name."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        try:
            descriptor = _create_folder(partial, mode) if is_folder else _create_file(partial)
        except FileExistsError:
            continue
        if descriptor is None:
            continue
        if _is_locked_by_us(descriptor) and is_at(descriptor, partial):
            return partial, descriptor
        os.close(descriptor)  # another process removed it as a leftover before it was locked


def _create_file(partial: Path) -> int:
    """Return a descriptor of a new file."""
    return os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def _create_folder(partial: Path, mode: int) -> int | None:
    """Return a descriptor of a new folder; None if another process removed it as a leftover."""
    partial.mkdir(mode)
    try:
        return os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None


def _is_locked_by_us(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError as error:
        if error.errno in UNSUPPORTED:  # then no process can lock it, and none removes it
            return True
        raise


def _remove_if_stale(path: Path) -> None:
    """Remove a leftover of this user whose lock is free.

    Raises:
        OSError: it cannot be opened, locked or removed.
    """
    status = path.lstat()
    if status.st_uid != os.getuid():
        return
    if stat.S_ISLNK(status.st_mode):  # previous content of `path`; partial files are never links
        path.unlink()
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if try_lock(descriptor) and is_at(descriptor, path):
            _remove(path)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file, folder or link if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
