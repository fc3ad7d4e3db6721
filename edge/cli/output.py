"""Checks that outputs of subcommands overwrite neither an input nor another existing file."""

import json
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from edge.bundle.bundle import MANIFEST, Bundle, is_bundle
from edge.errors import OutputError
from edge.live.outputs.open import is_video_name, output_path

NULL_DEVICE = os.makedev(1, 3)
MAX_LINE_BYTES = 1 << 16
BUNDLE_DEPTH = 2
"""Folders between a bundle's file and the bundle, itself included."""


def check_output(name: str, inputs: Iterable[Path], bundle: Bundle, *, overwrite: bool = False) -> None:
    """Check that an output of `edge run` overwrites neither an input nor another file.

    Raises:
        OutputError: its file is an input, inside the bundle, or another existing file.
    """
    path = output_path(name)
    if path is not None and is_video_name(name):  # videos never replace a file
        _check_is_no_input(path, (), bundle, may_be_inside=True)
    elif path is not None:
        check_lines(path, inputs, bundle, overwrite=overwrite)


def check_lines(path: Path, inputs: Iterable[Path], bundle: Bundle, *, overwrite: bool = False) -> None:
    """Check that JSON lines can be appended to a path, or with `overwrite` can replace the file.

    Raises:
        OutputError: the path is an input or part of one, a folder or device, or a file of another kind.
    """
    mode = _mode(path)
    is_lines = mode is None or not stat.S_ISREG(mode) or _holds_json_lines(path)
    _check_is_no_input(path, inputs, bundle, may_be_inside=is_lines)
    if mode is None or stat.S_ISFIFO(mode) or os.stat(path).st_rdev == NULL_DEVICE:
        return
    if not stat.S_ISREG(mode):
        raise OutputError(f"{path} is a {_kind(mode)}; give a file, /dev/null or /dev/stdout")
    if not is_lines and not overwrite:
        raise OutputError(f"{path} exists and holds no JSON lines; give another file, or add --overwrite to replace it")


def check_replaceable(
    path: Path, inputs: Iterable[Path], bundle: Bundle | None = None, *, is_kind: Callable[[Path], bool], kind: str
) -> None:
    """Check that a path does not exist, is empty, or is a previous output of this kind, outside any bundle.

    Raises:
        OutputError: the path is an input or part of one, in a bundle, or a file of another kind.
    """
    mode = _mode(path)
    _check_is_no_input(path, inputs, bundle, may_be_inside=mode is None)
    for folder in Path(os.path.realpath(path)).parents[:BUNDLE_DEPTH]:
        if is_bundle(folder):
            raise OutputError(f"{path} is inside the bundle {folder}; give a file outside")
    if mode is None:
        return
    if not stat.S_ISREG(mode):
        raise OutputError(f"{path} is a {_kind(mode)}; give a file")
    if _head(path, 1) and not is_kind(path):
        raise OutputError(f"{path} exists and is not a {kind}; give another file, or remove it")


def check_outside(folder: Path, inputs: Iterable[Path], bundle: Bundle) -> None:
    """Check that a folder to write to is neither an input nor inside one.

    Raises:
        OutputError: the folder is an input or inside one.
    """
    _check_is_no_input(folder, inputs, bundle, may_be_inside=False)


def check_replaced_folder(folder: Path, kept: Iterable[Path | None]) -> None:
    """Check that a folder that will be replaced as a whole is and holds none of these paths.

    Raises:
        OutputError: it is or holds one.
    """
    replaced = Path(os.path.realpath(folder))
    for path in filter(None, kept):
        real = Path(os.path.realpath(path))
        if replaced == real or replaced in real.parents:
            raise OutputError(f"{path} is inside {folder}, which is replaced as a whole; give a path outside")


def _check_is_no_input(path: Path, inputs: Iterable[Path], bundle: Bundle | None, *, may_be_inside: bool) -> None:
    """Check that a path is not an input, also under another name, nor inside an input folder unless it may be."""
    folders = Path(os.path.realpath(path)).parents
    if bundle is not None:
        if Path(os.path.realpath(bundle.path)) in folders:
            raise OutputError(f"{path} is inside the bundle {bundle.path}; give a file outside")
        inputs = [*inputs, *(bundle.path / name for name in (MANIFEST, *bundle.manifest.files))]
    for source in inputs:
        if _is_same(path, source):
            raise OutputError(f"{path} is the same file as {source}, which is read; give another file")
        if not may_be_inside and Path(os.path.realpath(source)) in folders:
            raise OutputError(f"{path} is inside {source}, which is read; give a file outside")


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _mode(path: Path) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "folder"
    return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "socket or pipe"


def _holds_json_lines(path: Path) -> bool:
    """Check that a file is empty or that its first line is a JSON object."""
    first, newline, _ = _head(path, MAX_LINE_BYTES).partition(b"\n")
    try:
        return not (first or newline) or (bool(newline) and isinstance(json.loads(first), dict))
    except (ValueError, RecursionError):
        return False


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)
