"""Files of arrays (`.npz`). Every array's header is checked before memory is allocated for it."""

import math
import zipfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edge.storage import read_file

MAX_FILE_BYTES = 4 << 30
FREE_BYTES, MAX_RATIO = 256 << 20, 100
"""A file may contain `FREE_BYTES` or `MAX_RATIO` times its size, whichever is larger."""
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class ArraySpec(NamedTuple):
    """Types and ranks that an array may have."""

    kinds: tuple[str, ...]
    """NumPy's codes of kind and size, such as `f4`; `U` for text."""
    ranks: tuple[int, ...]
    """Possible numbers of dimensions."""

    def __str__(self) -> str:
        names = (kind if kind == "U" else np.dtype(kind).name for kind in self.kinds)
        return f"{' or '.join(names).replace('U', 'text')} of {' or '.join(map(str, self.ranks))} dimensions"


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to a compressed file.

    The archive is made in memory: on a full disk, Python 3.10 prints a traceback for an archive that it cannot close.

    Raises:
        OSError: the disk is full or the folder is not writable.
    """
    archive = BytesIO()
    np.savez_compressed(archive, **arrays)  # type: ignore[arg-type]  # the stub expects a keyword option
    path.write_bytes(archive.getbuffer())


def read_npz(path: Path, members: Mapping[str, ArraySpec], content: bytes | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays of a file that contains exactly these arrays.

    Args:
        path: The file, for messages; it is read if `content` is None.
        members: The expected arrays by name.
        content: The content of the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not an archive, or its arrays are unexpected, damaged or too large.
    """
    content = read_file(path, MAX_FILE_BYTES) if content is None else content
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            _check_members(archive, members, max(FREE_BYTES, MAX_RATIO * len(content)))
            return {name: _read_member(archive, name, spec) for name, spec in members.items()}
    except MemoryError as error:
        raise ValueError("it needs more memory than is available") from error
    except ValueError:
        raise
    except Exception as error:  # a damaged archive can raise any exception
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def holds_arrays(path: Path, members: Iterable[str]) -> bool:
    """Check that a file is an archive of arrays with exactly these names.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(archive.namelist()) == sorted(f"{name}.npy" for name in members)
    except OSError:
        raise
    except Exception:  # a damaged archive can raise any exception
        return False


def _check_members(archive: zipfile.ZipFile, members: Mapping[str, ArraySpec], max_bytes: int) -> None:
    names = sorted(info.filename.removesuffix(".npy") for info in archive.infolist())
    if names != sorted(members):
        raise ValueError(f"it holds {_shortened(', '.join(names)) or 'nothing'}, expected {', '.join(members)}")
    total = sum(info.file_size for info in archive.infolist())
    if total > max_bytes:
        raise ValueError(f"it would take {total >> 20} MiB of memory, at most {max_bytes >> 20} MiB for its size")


def _read_member(archive: zipfile.ZipFile, name: str, spec: ArraySpec) -> NDArray[Any]:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        shape, is_fortran, dtype = _read_header(file, name)  # type: ignore[arg-type]  # an IO[bytes]
        kind = "U" if dtype.kind == "U" else dtype.str[1:]
        if kind not in spec.kinds or len(shape) not in spec.ranks or dtype != dtype.newbyteorder("="):
            raise ValueError(f"{name} is {_shortened(str(dtype))} of shape {_shortened(str(shape))}, expected {spec}")
        size = math.prod(shape) * dtype.itemsize
        if not dtype.itemsize or size > info.file_size:
            raise ValueError(f"{name} is truncated: its header announces {_shortened(str(shape))} of {dtype}")
        data = bytearray(size)
        if file.readinto(memoryview(data)) != size or file.read(1):  # type: ignore[attr-defined]
            raise ValueError(f"{name} does not have the size that its header announces")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _read_header(file: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        shape, is_fortran, dtype = HEADERS[npy.read_magic(file)](file)
    except Exception as error:  # Python's parser raises exceptions of many types
        raise ValueError(f"{name} has a damaged header ({' '.join(str(error).split())[:200]})") from error
    if any(size < 0 for size in shape):
        raise ValueError(f"{name} has shape {_shortened(str(shape))}")
    return shape, is_fortran, dtype


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"
