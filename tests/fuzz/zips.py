"""Mutations of zip archives and of NumPy's array headers, shared by npz files and checkpoints."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.values import BOUNDARIES, TEXTS

DTYPES = (
    "|V0", "|V1", "|V16", "<U0", "<U1", "<U4096", "|S0", "|S1", "|O", "<f2", "<f4", ">f4", "<f8", "<f16", "<c8", "<c16",
    "|b1", "|i1", "<i2", ">i4", "<i8", "|u1", "<u4", "<u8", "<M8[ns]", "<m8[D]", "<M8", "<T8", "T", "float32", "f",
    "4f4",
    "(2,3)f4", "(0,)f4", "(100000,)f4", "V1000000000", "U2147483647", "i4,f4", "", " ", "é", "<", "3", "|V2147483648",
)  # fmt: skip
NAMES = ("a", "../x.npy", "/x.npy", "x", ".npy", "logits", "frames.npy.npy", "\x00.npy", "a" * 300, "..\\x", "é.npy")
BOMB = 200 << 20
"""Bytes that a bomb unpacks to."""


def array_file(array: np.ndarray) -> bytes:
    """Return an array as NumPy writes it, objects pickled."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def odd_shape(random: Random) -> Any:
    """Return a value in the place of a header's shape."""
    size = lambda: random.choice(BOUNDARIES)  # noqa: E731
    return random.choice(
        (
            (), (0,), (1,), (size(),), (size(), size()), (2**62, 4), (0, 2**63), (2**31, 2**31, 2**31), (1,) * 65,
            (1,) * 32,
            (-1,), (True,), (1.5,), ("3",), None, 3, [3], (3, None), {}, ((3,),), (10**400,), (2**40,),
        )
    )  # fmt: skip


def odd_header(random: Random, content: bytes) -> bytes:
    """Return an array's file with a header that was changed or made up."""
    version, header, body = split_header(content)
    if random.random() < 0.1:
        text = random.choice(
            ("", "{}", "[]", "0", "{'descr': '<f4'}", "(" * 300, "{" * 90, "-" * 5000, "[" * 3000, "1+1j")
        )
    else:
        fields: dict[str, Any] = dict(header)
        for _ in range(random.choice((1, 1, 2))):
            field = random.choice(("descr", "shape", "shape", "fortran_order", "extra", "missing"))
            if field == "descr":
                fields["descr"] = random.choice((*DTYPES, [("a", "<f4")], [("a", "|V0")], [], None, 3, ("<f4", (2,))))
            elif field == "shape":
                fields["shape"] = odd_shape(random)
            elif field == "fortran_order":
                fields["fortran_order"] = random.choice((True, 1, None, "no"))
            elif field == "extra":
                fields[random.choice(TEXTS)] = 1
            else:
                fields.pop(random.choice(tuple(fields)), None)
            if not fields:
                break
        text = repr(fields)
    if random.random() < 0.1:
        version = random.choice(((2, 0), (3, 0), (0, 0), (4, 0), (255, 255)))
    if random.random() < 0.2:
        body = random.choice((b"", body[:-1], body * 2, body[:1]))
    return join_header(version, text, body, random.choice(BOUNDARIES) if random.random() < 0.05 else None)


def split_header(content: bytes) -> tuple[tuple[int, int], dict[str, Any], bytes]:
    """Return version, fields and data of an array's file as `array_file` writes it."""
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}
    return (1, 0), header, file.read()


def join_header(version: tuple[int, int], text: str, body: bytes, length: int | None = None) -> bytes:
    """Return an array's file; `length` stands for the header's where it is to lie."""
    encoded = text.encode("utf-8", errors="surrogatepass") + b"\n"
    width = "<H" if version == (1, 0) else "<I"
    size = (len(encoded) if length is None else length) % (1 << (8 * struct.calcsize(width)))
    return b"\x93NUMPY" + bytes(version) + struct.pack(width, size) + encoded + body


def odd_array(random: Random, array: np.ndarray) -> np.ndarray:
    """Return another array in an array's place: of another type, rank, length or with other values."""
    choices: tuple[Callable[[], np.ndarray], ...] = (
        lambda: array.astype(
            random.choice(("f2", "f4", "f8", "c16", "i1", "u1", "i8", "u8", "?", ">f4", "S8", "U8", "O"))
        ),
        lambda: array[..., None],
        lambda: array[None],
        lambda: array.reshape(-1),
        lambda: array[:-1] if array.ndim else array[None],
        lambda: array[:0] if array.ndim else array[None],
        lambda: np.concatenate([array, array]) if array.ndim else array,
        lambda: array.T,
        lambda: array[..., :-1] if array.ndim else array,
        lambda: array[..., :1] if array.ndim else array,
        lambda: array[::2] if array.ndim else array,
        lambda: np.array(random.choice((0, 1.5, "text", None, b"bytes", {}, [], [None], True)), dtype=None),
        lambda: np.zeros(random.choice(((), (0,), (1,), (0, 3), (3, 0), (1, 1, 1, 1, 1))), random.choice("fdiqQ?")),
        lambda: np.zeros(4, [("a", "f4"), ("b", "O")]),
        lambda: np.zeros(array.shape, random.choice(("V0", "V4", "U1", "S1", "M8[s]", "m8[s]", "f2", "c8"))),
        lambda: odd_values(random, array),
        lambda: odd_values(random, array),
        lambda: odd_values(random, array),
    )
    try:
        return random.choice(choices)()
    except (RuntimeError, TypeError, ValueError):  # text, dates and records are no numbers
        return array[None]


def odd_values(random: Random, array: np.ndarray) -> np.ndarray:
    """Return an array with some values at boundaries."""
    changed = np.array(array)
    if changed.dtype.kind not in "fiub" or not changed.size:
        return changed
    flat = changed.reshape(-1)
    for _ in range(random.choice((1, 3, changed.size))):
        if changed.dtype.kind == "f":
            value: Any = random.choice((np.nan, np.inf, -np.inf, 0, -1, 1e38, 1e-45, 2))
        elif changed.dtype.kind == "b":
            value = True
        else:
            limits = np.iinfo(changed.dtype)
            value = random.choice((limits.min, limits.max, 0, 1, limits.max // 2, min(10, limits.max)))
        with np.errstate(over="ignore"):
            flat[random.randrange(flat.size)] = value
    return flat.reshape(changed.shape)


def zip_of(members: Mapping[str, bytes], random: Random | None = None) -> bytes:
    """Return an archive; with random numbers, one of its unusual forms."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            packed = random is not None and random.random() < 0.3
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            archive.writestr(info, content)
        if random is not None and random.random() < 0.02:
            archive.comment = b"c" * 1000
    return file.getvalue()


def odd_zip(random: Random, members: Mapping[str, bytes]) -> bytes:
    """Return an archive whose members or directory were changed."""
    changed = dict(members)
    action = random.choice(("rename", "remove", "add", "swap", "empty", "fields", "fields", "twice", "prefix"))
    name = random.choice(tuple(changed))
    if action == "rename":
        other = random.choice((*NAMES, name.upper(), name.removesuffix(".npy"), name + ".npy"))
        changed = {(other if key == name else key): content for key, content in changed.items()}
    elif action == "remove":
        del changed[name]
    elif action == "add":
        changed[random.choice(NAMES)] = random.choice((b"", b"text", changed[name]))
    elif action == "swap":
        other = random.choice(tuple(changed))
        changed[name], changed[other] = changed[other], changed[name]
    elif action == "empty":
        changed[name] = b""
    content = zip_of(changed, random)
    if action == "fields":
        return odd_directory(random, content)
    if action == "twice":
        return content + content
    return random.choice((b"#!/bin/sh\n", bytes(100), b"PK\x03\x04")) + content if action == "prefix" else content


def odd_directory(random: Random, content: bytes) -> bytes:
    """Return an archive with a number changed in a local header, the directory or its end."""
    data = bytearray(content)
    marks = [at for mark in (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06") for at in find_all(content, mark)]
    at = random.choice(marks) + 4 + random.choice(range(0, 28, 2))
    width = random.choice((2, 4))
    data[at : at + width] = (random.choice(BOUNDARIES) % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(data)


def find_all(content: bytes, mark: bytes) -> list[int]:
    """Return every place of a mark."""
    found, at = [], content.find(mark)
    while at >= 0:
        found.append(at)
        at = content.find(mark, at + 1)
    return found


@cache
def zeros(size: int) -> bytes:
    """Return so many zeros, deflated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(size)) + packer.flush()


def bomb(name: str, head: bytes, size: int = BOMB) -> bytes:
    """Return an archive of a member that starts with `head` and unpacks to `size` zeros behind it.

    The checksum is wrong: it would be noticed only at the end.
    """
    packer = zlib.compressobj(0, zlib.DEFLATED, -15)
    packed = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH) + zeros(size)
    fields = (20, 0, 8, 0, 0, 0, len(packed), len(head) + size)
    encoded = name.encode()
    local = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", *fields, len(encoded), 0) + encoded + packed
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, *fields, len(encoded), 0, 0, 0, 0, 0, 0) + encoded
    return local + entry + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), len(local), 0)
