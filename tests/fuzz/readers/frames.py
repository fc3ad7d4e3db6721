"""Fuzzer of frames: image files, arrays in files and in memory, and videos, through preprocessing."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import cv2
import numpy as np

from edge.bundle.manifest import InputSpec
from edge.errors import SourceError
from edge.frames.base import Frame, PixelFormat
from edge.frames.files import read_frame, silence_opencv
from edge.frames.open import open_frame, open_source
from edge.frames.preprocess import preprocess_for
from tests.fuzz.base import Input
from tests.fuzz.values import BOUNDARIES, damage
from tests.fuzz.zips import array_file, odd_array, odd_header

IMAGE = InputSpec("image", "rgb", 3, 16, 16, (0.5,) * 3, (0.5,) * 3)
GRAY = InputSpec("image", "gray", 1, 16, 16, (0.5,), (0.5,))
ARRAY = InputSpec("array", None, 3, 12, 14, (0.0,) * 3, (1.0,) * 3)
SUFFIXES = ("png", "jpg", "bmp", "webp", "tiff", "pgm", "jp2")
MAGIC = {
    "png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8", "bmp": b"BM", "webp": b"RIFF", "tiff": b"II*\0", "pgm": b"P5",
    "jp2": b"\0\0\0\x0cjP", "npy": b"\x93NUMPY", "memory": b"\x93NUMPY", "avi": b"RIFF", "mkv": b"\x1aE\xdf\xa3",
}  # fmt: skip
VIDEO_SHARE, MAX_FRAMES = 0.03, 50


class FrameReader:
    """Small valid pictures, arrays and videos to damage."""

    errors = (SourceError,)
    rooms = ("edge.frames",)

    def __init__(self, base: Path, scratch: Path) -> None:
        silence_opencv()
        self._scratch = scratch
        numbers = np.random.default_rng(0)
        smooth = cv2.resize(numbers.integers(0, 256, (4, 5, 3), dtype=np.uint8), (30, 24))
        self._images = {suffix: encoded(smooth, suffix) for suffix in SUFFIXES}
        self._images["jpg"] += encoded(smooth, "jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
        self._images["png"] += [*encoded(smooth[..., 0], "png"), *encoded(smooth.astype(np.uint16) * 257, "png")]
        self._images["png"] += encoded(np.dstack([smooth, smooth[..., :1]]), "png")
        self._images["pgm"] = encoded(smooth[..., 0], "pgm")
        self._images = {suffix: images for suffix, images in self._images.items() if images}
        self._arrays = [
            smooth,
            smooth[..., 0],
            smooth.transpose(2, 0, 1),
            numbers.random((3, 12, 14), dtype=np.float32),
        ]
        self._videos = {suffix: video(scratch / f"base.{suffix}", smooth) for suffix in ("avi", "mkv")}
        self._preprocess = {
            kind: [(preprocess_for(spec), np.empty(spec.shape, dtype=np.float32)) for spec in specs]
            for kind, specs in SPECS.items()
        }

    def generate(self, random: Random) -> Input:
        if random.random() < VIDEO_SHARE:
            suffix = random.choice(tuple(self._videos))
            return Input(suffix, damage(random, self._videos[suffix], keep=64 if random.random() < 0.5 else 12))
        if random.random() < 0.3:
            if random.random() < 0.5:
                return Input("memory", array_file(odd_array(random, random.choice(self._arrays))))
            return Input("npy", self._odd_npy(random))
        suffix = random.choice(tuple(self._images))
        content = random.choice(self._images[suffix])
        given = random.choice(tuple(self._images)) if random.random() < 0.03 else suffix  # under another's name
        if random.random() < 0.5:
            content = EDITS.get(suffix, header_number)(random, content)
        keep = len(MAGIC[suffix]) if random.random() < 0.95 else 0
        if random.random() < 0.6:
            content = damage(random, content, keep)
        return Input(given, content)

    def _odd_npy(self, random: Random) -> bytes:
        array = random.choice(self._arrays)
        if random.random() < 0.6:
            content = array_file(odd_array(random, array))
            return damage(random, content, keep=6) if random.random() < 0.1 else content
        return odd_header(random, array_file(array))

    def passes_first_step(self, given: Input) -> bool:
        return any(given.content.startswith(magic) for magic in MAGIC.values())

    def prepare(self) -> None:
        pass

    def read(self, given: Input) -> None:
        if given.kind == "memory":
            self._use_memory(given.content)
            return
        path = self._scratch / f"input.{given.kind}"
        path.write_bytes(given.content)
        if given.kind in self._videos:
            source = open_source(path)
            try:
                for _ in range(MAX_FRAMES):
                    frame = source.read(None)
                    if frame is None:
                        break
                    self._use(frame)
            finally:
                source.close()
            return
        self._use(read_frame(path))

    def _use(self, frame: Frame) -> None:
        """Preprocess a frame for each kind of network; numbers are refused for images and pictures for arrays."""
        for preprocess, out in self._preprocess["array" if frame.format is PixelFormat.ARRAY else "image"]:
            preprocess(frame, out)

    def _use_memory(self, content: bytes) -> None:
        """Take an array as `Classifier.predict` does, for both kinds of networks, and as NV12."""
        array = np.load(io.BytesIO(content), allow_pickle=True)
        errors = []
        for make in (
            lambda: open_frame(array, "image"),
            lambda: open_frame(array, "array"),
            lambda: Frame(array, PixelFormat.NV12),
        ):
            try:
                self._use(make())
            except SourceError as error:
                errors.append(error)
        if errors:
            raise errors[0]


SPECS = {"image": (IMAGE, GRAY), "array": (ARRAY,)}


def encoded(image: np.ndarray, suffix: str, *options: int) -> list[bytes]:
    """Return an image as a file of a format, in a list; an empty one where OpenCV does not write it."""
    try:
        done, content = cv2.imencode(f".{suffix}", image, options)
    except cv2.error:
        return []
    return [content.tobytes()] if done else []


def video(path: Path, image: np.ndarray) -> bytes:
    """Return a video of eight moving frames."""
    code = {".avi": "MJPG", ".mkv": "FFV1"}[path.suffix]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (32, 24))
    assert writer.isOpened()
    for shift in range(8):
        writer.write(np.roll(cv2.resize(image, (32, 24)), shift, axis=1))
    writer.release()
    return path.read_bytes()


def edit_png(random: Random, content: bytes) -> bytes:
    """Change a chunk of a PNG and correct its checksum."""
    chunks = png_chunks(content)
    index = 0 if random.random() < 0.5 else random.randrange(len(chunks))
    kind, data = chunks[index]
    action = random.choice(("fields", "fields", "fields", "remove", "copy", "order", "extra", "pixels"))
    if action == "remove":
        del chunks[index]
    elif action == "copy":
        chunks.insert(random.randrange(len(chunks)), (kind, data))
    elif action == "order":
        random.shuffle(chunks)
    elif action == "extra":
        kind = random.choice((b"tEXt", b"iCCP", b"eXIf", b"gAMA", b"tRNS", b"PLTE", b"acTL", b"IEND", b"IDAT", b"XXXX"))
        chunks.insert(
            random.randrange(1, len(chunks) + 1), (kind, random.randbytes(random.choice((0, 1, 4, 26, 1000))))
        )
    elif action == "pixels":
        body = random.choice((b"", zlib.compress(b""), zlib.compress(bytes(10)), zlib.compress(random.randbytes(5000))))
        chunks = [(name, body if name == b"IDAT" else old) for name, old in chunks]
    else:
        chunks[index] = (kind, put_number(random, data))
    return MAGIC["png"] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(content):
        (size,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def edit_jpeg(random: Random, content: bytes) -> bytes:
    """Change a segment of a JPEG before the scan."""
    segments, at = [], 2
    while content[at + 1] != 0xDA:
        (size,) = struct.unpack_from(">H", content, at + 2)
        segments.append((content[at + 1], content[at + 4 : at + 2 + size]))
        at += 2 + size
    rest = content[at:]
    index = random.randrange(len(segments))
    marker, data = segments[index]
    action = random.choice(("fields", "fields", "fields", "remove", "copy", "extra", "marker", "end", "trailing"))
    if action == "remove":
        del segments[index]
    elif action == "copy":
        segments.insert(random.randrange(len(segments)), (marker, data))
    elif action == "extra":
        data = random.choice(
            (b"", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", random.randbytes(60))
        )
        segments.insert(0, (random.choice((0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xDD, 0xDB, 0xC4)), data))
    elif action == "marker":
        segments[index] = (random.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xD8, 0xD9, 0x01, 0xFF)), data)
    elif action == "end":
        rest = rest.removesuffix(b"\xff\xd9")
    elif action == "trailing":
        rest += random.choice((b"\xff\xda", b"\xff\xd8", bytes(2000), random.randbytes(5000), content))
    else:
        segments[index] = (marker, put_number(random, data))
    return (
        b"\xff\xd8"
        + b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments)
        + rest
    )


def header_number(random: Random, content: bytes) -> bytes:
    """Write a boundary into the first 80 bytes, after the magic."""
    return content[:4] + put_number(random, content[4:80]) + content[80:]


def edit_tiff(random: Random, content: bytes) -> bytes:
    """Change a field of a TIFF's first directory."""
    (at,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, at)
    data = bytearray(content)
    place = at + 2 + 12 * random.randrange(count) + random.choice((0, 2, 4, 8))
    width = random.choice((2, 4))
    data[place : place + width] = (random.choice(BOUNDARIES) % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(data)


def edit_pgm(random: Random, content: bytes) -> bytes:
    """Make up the text in front of a PGM's pixels."""
    fields = random.choice(
        ("30 24\n255\n", "99999 99999\n255\n", "-1 24\n255\n", "30 24\n65535\n", "30 24\n0\n", "30\n", "#\n")
    )
    return b"P" + random.choice(b"123456789f").to_bytes(1, "big") + b"\n" + fields.encode() + content[-720:]


def put_number(random: Random, data: bytes) -> bytes:
    """Write a boundary somewhere into bytes."""
    if not data:
        return b"\xff"
    width = random.choice((1, 1, 2, 4))
    at = random.randrange(len(data))
    number = (random.choice(BOUNDARIES) % (1 << 8 * width)).to_bytes(width, random.choice(("little", "big")))
    return data[:at] + number[: len(data) - at] + data[at + width :]


Edit = Callable[[Random, bytes], bytes]
EDITS: dict[str, Edit] = {"png": edit_png, "jpg": edit_jpeg, "tiff": edit_tiff, "pgm": edit_pgm}

READER = FrameReader
