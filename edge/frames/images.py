"""Image files to 8-bit BGR, identical on every machine that trains or runs.

JPEG is decoded with simplejpeg: the pixels are those of OpenCV, but OpenCV hides libjpeg's warnings, which are the
only sign of damaged data. All other formats are decoded with OpenCV.

* Damage is detected in JPEG if libjpeg warns, and in PNG by its checksums. In other formats only truncation is
  detected: WebP, TIFF, JPEG 2000, BMP and PNM have no checksums, or OpenCV ignores them.
* A JPEG may lack its end marker or be followed by other data, as in motion photos.
* 16 bits per channel are reduced to the upper 8. An image without values of 20000 or more, such as 12-bit sensor data
  in 16 bits, is refused, since it would be nearly black. Floating-point and signed values are also refused.
* Transparent pixels are laid on white, as in a browser. BMP has no transparency.
* Orientation in EXIF data is applied.
* A small file may announce a huge image. It is refused before it is decoded: by the headers of JPEG and PNG, in other
  formats by OpenCV. A program that imports cv2 before edge gets OpenCV's own limit there, which is four times as high.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError, UnavailableError

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".jp2",
    ".pbm", ".pgm", ".ppm", ".pnm",
)  # fmt: skip
"""Formats that the OpenCV of pip, Debian and JetPack can read."""
ODD_SUBSAMPLING = "Could not determine subsampling level"
"""TurboJPEG's error for rare chroma subsampling. OpenCV decodes these files, without detecting damage."""
MAX_PIXELS = 1 << 28
"""Larger images are refused: a small file could take minutes and all memory. `edge/__init__.py` sets it in OpenCV."""
OPENCV_LIMIT = "CV_IO_MAX_IMAGE"
"""OpenCV's name for its limits, in its error about a larger image."""
MAX_PIXELS_PER_BYTE = 1024
"""Largest number of pixels per byte of a JPEG: a bit for each block of 64, with a margin of two."""
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
MISSING_END = "Premature end of JPEG file"
"""libjpeg's warning about a missing end marker, and about missing data."""
MIN_BRIGHTEST = 20_000
"""Smallest accepted maximum of a 16-bit image, above 14-bit sensor data with the overshoot of a lossy format."""
PNM_MAXIMUM = re.compile(rb"P[2356]\s+(?:#[^\n]*\s+)*\d+\s+(?:#[^\n]*\s+)*\d+\s+(?:#[^\n]*\s+)*(\d+)")
EXIF = re.compile(rb"(?:Exif\0\0|eXIf|EXIF....)(?:Exif\0\0)?(?=II\*\0|MM\0\*)", re.DOTALL)
"""The start of EXIF data in JPEG, PNG and WebP."""
EXIF_SEARCH = {b"\xff\xd8": 1 << 17, b"\x89P": None, b"RI": None}
"""First bytes of the formats with an orientation in EXIF data, and the part of the file to search; None for all."""
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
"""Transforms of the stored image to the upright image, by EXIF orientation."""


def decode_image(content: bytes, path: Path) -> NDArray[Any]:
    """Decode the content of an image file to an upright uint8 BGR image.

    Args:
        content: The content.
        path: The file, for messages.

    Raises:
        SourceError: the content is damaged, or not a supported image.
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
        is_large = OPENCV_LIMIT in error.err
        raise _refusal(path, f"it has more than {MAX_PIXELS} pixels" if is_large else error.err) from error


def _refusal(path: Path, reason: object) -> SourceError:
    """Return the error for a file that cannot be decoded."""
    remedy = "remove or replace it"
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        remedy = "give an image file; classify videos with `edge run` or `Classifier.stream`"
    return SourceError(f"{path} cannot be read as an image: {reason}; {remedy}")


def flatten(bgra: NDArray[Any]) -> NDArray[Any]:
    """Lay an 8-bit image with transparency on white."""
    alpha = bgra[:, :, 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(bgra[:, :, :3])
    return ((bgra[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def upper_bits(pixels: NDArray[Any], name: object) -> NDArray[Any]:
    """Reduce 16 bits per channel to the upper 8.

    Raises:
        SourceError: the image would be nearly black.
    """
    brightest = int(pixels.max())
    if 0 < brightest < MIN_BRIGHTEST:
        raise SourceError(
            f"{name} has 16 bits per channel and values up to {brightest} of 65535, like data of a sensor with fewer "
            "bits, and would be nearly black; scale it to 8 bits"
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
        raise _refusal(path, error) from error


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Return width and height from the header of a JPEG; zeros if it has none."""
    position = 2
    while content[position : position + 1] == b"\xff" and len(content) >= position + 9:
        marker, segment = content[position + 1], content[position + 2 : position + 9]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            return int.from_bytes(segment[5:7], "big"), int.from_bytes(segment[3:5], "big")
        position += 2 + int.from_bytes(segment[:2], "big")
    return 0, 0


def _decode_other(content: bytes, path: Path) -> NDArray[Any]:
    """Decode an image with OpenCV without conversion: any depth, gray, colour or with transparency."""
    maximum = PNM_MAXIMUM.match(content)
    if maximum is not None and int(maximum[1]) not in (255, 65535):
        raise SourceError(f"{path} has values up to {int(maximum[1])}; scale them to 0 to 255")
    if content.startswith(PNG_START):
        width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
        _check_size(width, height, MAX_PIXELS, path)
    flags = cv2.IMREAD_COLOR if content.startswith(b"BM") else cv2.IMREAD_UNCHANGED
    pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    if pixels is None:
        raise _refusal(path, f"it is damaged, or of a format that OpenCV {cv2.__version__} cannot decode")
    _check_size(pixels.shape[1], pixels.shape[0], MAX_PIXELS, path)
    return pixels


def _check_size(width: int, height: int, max_pixels: int, path: Path) -> None:
    if width * height > max_pixels:
        raise _refusal(path, f"its header announces {width} x {height} pixels, at most {max_pixels} are possible")


def _to_bgr(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    if pixels.dtype == np.uint16:
        pixels = upper_bits(pixels, path)
    if pixels.dtype != np.uint8:
        raise SourceError(f"{path} has values of type {pixels.dtype}; convert it to 8 bits per channel")
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return flatten(pixels) if pixels.shape[2] == 4 else pixels


def _orientation(content: bytes) -> int:
    """Return the EXIF orientation of a JPEG, PNG or WebP; 1 (upright) if there is none."""
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
