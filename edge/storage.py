"""Atomic writes, locks and this user's cache folder."""

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
    """Write `content` beside `path`, then rename it into place.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    with atomic_file(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a file to write; it replaces `path` when the block ends without an error, else it is removed.

    Raises:
        OSError: the disk is full, the folder cannot be written, or `path` is a device; it is as it was.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "exists and is no regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    descriptor, name = tempfile.mkstemp(prefix=_prefix(path), suffix=".partial", dir=path.parent)
    aside = Path(name)
    try:
        yield aside
        os.fsync(descriptor)
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        _add_filename(error, path)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a folder to fill; it replaces `path` when the block ends without an error, else it is removed.

    A killed process leaves a `.partial` folder behind, which nothing reads and the next call removes.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    aside = Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=".partial", dir=path.parent))
    retired = aside.with_suffix(".retired")
    try:
        yield aside
        os.chmod(aside, 0o777 & ~_umask())
        if path.exists():
            os.replace(path, retired)
        os.replace(aside, path)
    except BaseException as error:
        _remove(aside)
        if retired.exists():
            os.replace(retired, path)
        _add_filename(error, path)
        raise
    _remove(retired)


@contextmanager
def locked_dir(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, across processes; the lock of a killed process is released."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def cache_root() -> Path:
    """Return this user's folder for engines and kernels: `$EDGE_CACHE`, else `early-exit/engines` in the user's cache."""
    if root := os.environ.get("EDGE_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "early-exit" / "engines"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _prefix(path: Path) -> str:
    return f".{path.name}.{os.getpid()}."


def _remove_stale(path: Path) -> None:
    """Remove leftovers of killed writers of `path`, but none of a living process."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(?P<owner>\d+)\.\w+\.(?P<kind>partial|retired)")
    for leftover in path.parent.iterdir():
        match = name.fullmatch(leftover.name)
        if match is None or Path(f"/proc/{match['owner']}").exists():
            continue
        if match["kind"] == "retired" and not path.exists():
            os.replace(leftover, path)  # killed between the two renames: the old content is still whole
        else:
            _remove(leftover)


def _remove(path: Path) -> None:
    """Remove a file, a folder or a link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _add_filename(error: BaseException, path: Path) -> None:
    """Add the file's name to errors that lack it, such as that of a full disk."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
