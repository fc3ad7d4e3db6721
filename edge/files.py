"""Writing that leaves either the old content or the new, never half of it."""

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
    with file_aside(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def file_aside(path: Path) -> Iterator[Path]:
    """Give a file to write; where the block ends well it takes the place of `path`, else it is removed.

    Raises:
        OSError: the disk is full, the folder cannot be written, or `path` is a device; it is as it was.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "exists and is no regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    descriptor, name = tempfile.mkstemp(prefix=_prefix(path), suffix=".partial", dir=path.parent)
    aside = Path(name)
    try:
        yield aside
        os.fsync(descriptor)
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        _name(error, path)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Give a folder to fill; where the block ends well it takes the place of `path`, else it is removed.

    A killed process leaves a `.partial` folder behind that nothing reads and the next call sweeps away.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
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
        _name(error, path)
        raise
    _remove(retired)


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Keep other processes that lock this folder waiting; a killed one gives its lock up."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _prefix(path: Path) -> str:
    return f".{path.name}.{os.getpid()}."


def _sweep(path: Path) -> None:
    """Clear away what killed writers of `path` left behind; what a living process fills is left alone."""
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


def _name(error: BaseException, path: Path) -> None:
    """Say which file did not fit: what a full disk raises does not."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
