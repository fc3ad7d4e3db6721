"""Image files to 8-bit BGR, the same on every machine that trains or runs.

JPEG is decoded with simplejpeg, to OpenCV's very pixels, since libjpeg's warnings are the only sign of damage inside;
OpenCV hides them. All other formats are decoded with OpenCV.

* Damage. JPEG: whatever libjpeg warns of. PNG: any, by its checksums. Other formats: only a file that was cut short;
  WebP, TIFF, JPEG 2000, BMP and PNM have no checksums, or OpenCV does not report them.
* A JPEG may lack its end marker or be followed by other data, as in motion photos.
* 16 bits per channel are reduced to the upper 8. Where the upper bits are empty, as with 12 bits of a sensor in 16 of a
  file (no value of 20000 or more), the picture would be nearly black; it is refused. So are floating-point and signed
  values.
* Transparent pixels lie on white, as in a browser. BMP has no transparency.
* Orientation in EXIF data is applied.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError, UnavailableError

ODD_SUBSAMPLING = "Could not determine subsampling level"
"""TurboJPEG's refusal of rare layouts of the colour channels, which OpenCV reads; damage inside them stays unknown."""
MAX_PIXELS = 1 << 28
"""Larger pictures are refused unread: a small file may announce them and cost minutes and all memory."""
MAX_PIXELS_PER_BYTE = 1024
"""Pixels that a byte of a JPEG can hold at most: one bit for a block of 64, and as much again to spare."""
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
MISSING_END = "Premature end of JPEG file"
"""libjpeg's warning about a missing end marker, and about missing data."""
MIN_BRIGHTEST = 20_000
"""Largest value of a 16-bit picture, at least: below lie 14 bits of a sensor, with the overshoot of a lossy format."""
PNM_MAXIMUM = re.compile(rb"P[2356]\s+(?:#[^\n]*\s+)*\d+\s+(?:#[^\n]*\s+)*\d+\s+(?:#[^\n]*\s+)*(\d+)")
EXIF = re.compile(rb"(?:Exif\0\0|eXIf|EXIF....)(?:Exif\0\0)?(?=II\*\0|MM\0\*)", re.DOTALL)
"""The start of EXIF data in JPEG, PNG and WebP."""
EXIF_SEARCH = {b"\xff\xd8": 1 << 17, b"\x89P": None, b"RI": None}
"""Formats with an orientation in EXIF data, by their first bytes, and where in the file it lies at the latest."""
ORIENTATION = 0x0112
TRANSFORMS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.flip(image, -1),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""From the stored picture to the upright one, by EXIF orientation."""


def decode_image(content: bytes, path: Path) -> NDArray[Any]:
    """Return the upright picture in an image file's content, uint8 BGR; `path` names it in messages.

    Raises:
        SourceError: it is damaged, or no image that can be read without guessing.
        UnavailableError: simplejpeg is not installed.
    """
    if not content:
        raise SourceError(f"{path} is empty (0 bytes); remove or replace it")
    try:
        if content.startswith(JPEG_START):
            pixels = _decode_jpeg(content, path)
        else:
            pixels = _to_bgr(_decode_other(content, path), path)
        transform = TRANSFORMS.get(_orientation(content))
        return pixels if transform is None else transform(pixels)
    except MemoryError:
        raise SourceError(f"{path} cannot be read as an image: out of memory; make it smaller") from None
    except cv2.error as error:
        raise SourceError(f"{path} cannot be read as an image: {error.err}; remove or replace it") from error


def flatten(bgra: NDArray[Any]) -> NDArray[Any]:
    """Lay an 8-bit picture with transparency on white."""
    alpha = bgra[:, :, 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(bgra[:, :, :3])
    return ((bgra[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def upper_bits(pixels: NDArray[Any], name: object) -> NDArray[Any]:
    """Reduce 16 bits per channel to 8.

    Raises:
        SourceError: the upper bits are empty.
    """
    brightest = int(pixels.max())
    if 0 < brightest < MIN_BRIGHTEST:
        raise SourceError(
            f"{name} has 16 bits per channel and values up to {brightest} of 65535, as from a sensor with fewer bits, "
            "and would be read as nearly black; scale it to 8 bits"
        )
    return (pixels >> 8).astype(np.uint8)


def _decode_jpeg(content: bytes, path: Path) -> NDArray[Any]:
    try:
        from simplejpeg import decode_jpeg
    except ImportError as error:
        raise UnavailableError(
            f"JPEG files are read with simplejpeg, which cannot be imported ({error}); pip install simplejpeg"
        ) from error
    _check_size(*_jpeg_size(content), min(MAX_PIXELS, MAX_PIXELS_PER_BYTE * len(content)), path)
    try:
        try:
            return np.asarray(decode_jpeg(content, colorspace="BGR", strict=True))
        except ValueError as error:
            if MISSING_END not in str(error):
                raise
            return np.asarray(decode_jpeg(content + JPEG_END, colorspace="BGR", strict=True))
    except ValueError as error:
        if ODD_SUBSAMPLING in str(error):
            return _decode_other(content, path)
        raise SourceError(f"{path} cannot be read as an image: {error}; remove or replace it") from error


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Return width and height as the header of a JPEG announces them; zeros where it does not."""
    place = 2
    while content[place : place + 1] == b"\xff" and len(content) >= place + 9:
        marker, segment = content[place + 1], content[place + 2 : place + 9]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            return int.from_bytes(segment[5:7], "big"), int.from_bytes(segment[3:5], "big")
        place += 2 + int.from_bytes(segment[:2], "big")
    return 0, 0


def _decode_other(content: bytes, path: Path) -> NDArray[Any]:
    """Return an image as it is stored: any depth, gray, colour or with transparency."""
    maximum = PNM_MAXIMUM.match(content)
    if maximum is not None and int(maximum[1]) not in (255, 65535):
        raise SourceError(f"{path} has values up to {int(maximum[1])}; scale them to 0 to 255")
    if content.startswith(PNG_START):
        _check_size(*(int.from_bytes(content[at : at + 4], "big") for at in (16, 20)), MAX_PIXELS, path)
    flags = cv2.IMREAD_COLOR if content.startswith(b"BM") else cv2.IMREAD_UNCHANGED
    pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    if pixels is None:
        raise SourceError(
            f"{path} cannot be read as an image: it is damaged, or of a format that OpenCV {cv2.__version__} cannot "
            "decode; remove or replace it"
        )
    return pixels


def _check_size(width: int, height: int, most: int, path: Path) -> None:
    if width * height > most:
        raise SourceError(
            f"{path} cannot be read as an image: it announces {width} x {height} pixels, at most {most} can be in such a "
            "file; remove or replace it"
        )


def _to_bgr(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    if pixels.dtype == np.uint16:
        pixels = upper_bits(pixels, path)
    if pixels.dtype != np.uint8:
        raise SourceError(f"{path} has values of type {pixels.dtype}; convert it to 8 bits per channel")
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return flatten(pixels) if pixels.shape[2] == 4 else pixels


def _orientation(content: bytes) -> int:
    """Return the EXIF orientation of a JPEG, PNG or WebP; 1, upright, where there is none."""
    if content[:2] not in EXIF_SEARCH:
        return 1
    start = EXIF.search(content, 0, EXIF_SEARCH[content[:2]] or len(content))
    if start is None:
        return 1
    data = content[start.end() :]
    order = "little" if data.startswith(b"II") else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    directory = number(4, 4)
    for index in range(min(number(directory, 2), 1000)):
        entry = directory + 2 + 12 * index
        if number(entry, 2) == ORIENTATION:
            return number(entry + 8, 2)
    return 1
