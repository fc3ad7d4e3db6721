"""Atomic writes, folder locks, and this user's cache folder."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        OSError: the disk is full, the folder is not writable, or `path` is no regular file; `path` is unchanged.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "exists and is no regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    descriptor, name = tempfile.mkstemp(prefix=_prefix(path), suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        yield partial
        os.fsync(descriptor)
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        _add_filename(error, path)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; it replaces `path` if the block ends without an error, else it is removed.

    A killed process leaves a hidden `.partial` folder, which the next call for `path` removes.

    Raises:
        OSError: the disk is full or the parent folder is not writable; `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    partial = Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=".partial", dir=path.parent))
    retired = partial.with_suffix(".retired")
    try:
        yield partial
        os.chmod(partial, 0o777 & ~_umask())
        if path.exists():
            os.replace(path, retired)
        os.replace(partial, path)
    except BaseException as error:
        _remove(partial)
        if retired.exists():
            os.replace(retired, path)
        _add_filename(error, path)
        raise
    _remove(retired)


@contextmanager
def locked_dir(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder across processes. The system releases the lock of a killed process."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def cache_root() -> Path:
    """Return the folder for engines and kernels: `$EDGE_CACHE`, else `early-exit/engines` in this user's cache."""
    if root := os.environ.get("EDGE_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "early-exit" / "engines"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _prefix(path: Path) -> str:
    return f".{path.name}.{os.getpid()}."


def _remove_stale(path: Path) -> None:
    """Remove leftovers of killed writers of `path`; those of running processes stay."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(?P<owner>\d+)\.\w+\.(?P<kind>partial|retired)")
    for leftover in path.parent.iterdir():
        match = name.fullmatch(leftover.name)
        if match is None or Path(f"/proc/{match['owner']}").exists():
            continue
        if match["kind"] == "retired" and not path.exists():
            os.replace(leftover, path)  # killed between the two renames: restore the old content
        else:
            _remove(leftover)


def _remove(path: Path) -> None:
    """Remove a file, folder or link if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _add_filename(error: BaseException, path: Path) -> None:
    """Add the file name to errors that lack it, as the error of a full disk does."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
