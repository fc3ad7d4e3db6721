"""Image files: each kind of damage, depth, transparency and format is read rightly or refused by name."""

import io
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge.errors import SourceError
from edge.frames.files import files_in, read_frame
from edge.frames.images import IMAGE_SUFFIXES, MAX_PIXELS, decode_image, flatten
from edge.frames.labelled import labelled_files
from edge.frames.open import open_frame, open_source
from tests.support.commands import ROOT, limited_memory, random_frames, without_privileges


def photo(height: int = 256, width: int = 384) -> NDArray[np.uint8]:
    """Return a picture with soft shapes and a little noise."""
    generator = np.random.default_rng(0)
    shapes = cv2.resize(generator.integers(0, 256, (8, 12, 3), dtype=np.uint8), (width, height))
    return np.clip(shapes.astype(np.int16) + generator.integers(-8, 9, shapes.shape), 0, 255).astype(np.uint8)


def encode(suffix: str, pixels: NDArray[np.generic], *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def encode_with_pillow(kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo()[:, :, ::-1]).convert(mode).save(file, kind, **options)
    return file.getvalue()


def by_opencv(content: bytes) -> NDArray[np.uint8]:
    return cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)


def read(content: bytes) -> NDArray[np.uint8]:
    return decode_image(content, Path("picture.png"))


JPEG = encode(".jpg", photo())
JPEGS = {
    "baseline": JPEG,
    "progressive": encode_with_pillow("JPEG", progressive=True),
    "no subsampling": encode_with_pillow("JPEG", subsampling=0, quality=95),
    "restart markers": encode_with_pillow("JPEG", restart_marker_rows=1),
    "gray": encode(".jpg", photo()[:, :, 0]),
    "CMYK": encode_with_pillow("JPEG", "CMYK"),
}
HEALTHY = {
    **JPEGS,
    ".png": encode(".png", photo()),
    ".webp": encode(".webp", photo()),
    ".tif": encode(".tif", photo()),
    ".bmp": encode(".bmp", photo()),
    ".jp2": encode(".jp2", photo()),
    ".ppm": encode(".ppm", photo()),
    ".pgm": encode(".pgm", photo()[:, :, 0]),
    "palette": encode_with_pillow("PNG", "P"),
    "1 bit": encode_with_pillow("PNG", "1"),
    "16 bits": encode(".png", photo().astype(np.uint16) * 257),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_image_has_the_pixels_of_opencv(kind: str) -> None:
    assert (read(HEALTHY[kind]) == by_opencv(HEALTHY[kind])).all()


@pytest.mark.parametrize("kind", HEALTHY)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.95])
def test_a_truncated_image_is_refused_by_name(kind: str, share: float, tmp_path: Path) -> None:
    content = HEALTHY[kind]
    (tmp_path / "cut.png").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SourceError, match=r"cut\.png (cannot be read as an image|is empty).*; remove or replace it"):
        read_frame(tmp_path / "cut.png")


def zeros(content: bytes) -> bytes:
    start, length = len(content) // 3, len(content) // 4
    return content[:start] + bytes(length) + content[start + length :]


def flipped(content: bytes) -> bytes:
    damaged = bytearray(content)
    for place in np.random.default_rng(1).integers(1000, len(content) - 100, 60):
        damaged[place] ^= 255
    return bytes(damaged)


@pytest.mark.parametrize("damage", [zeros, flipped])
@pytest.mark.parametrize("kind", [*JPEGS, ".png"])
def test_damage_inside_a_jpeg_or_png_is_refused(kind: str, damage: Callable[[bytes], bytes]) -> None:
    content = damage(HEALTHY[kind])
    assert content[-2:] == HEALTHY[kind][-2:]
    with pytest.raises(SourceError, match=r"picture\.png cannot be read as an image: .*; remove or replace it"):
        read(content)


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content + b"\0" * 10,
        lambda content: content + b"\xff\xda",
        lambda content: content + random_frames(1, 512, 512)[0].tobytes(),
        lambda content: content + JPEG,
        lambda content: content.removesuffix(b"\xff\xd9"),
    ],
    ids=["zeros", "scan marker", "video", "second picture", "no end marker"],
)
def test_a_jpeg_with_trailing_data_or_without_end_marker_is_read(kind: str, change: Callable[[bytes], bytes]) -> None:
    assert (read(change(JPEGS[kind])) == by_opencv(JPEGS[kind])).all()


BITS = {name: (photo().astype(np.uint16) * 257) >> (16 - bits) for name, bits in (("8", 8), ("12", 12), ("14", 14))}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2"])
@pytest.mark.parametrize("bits", BITS)
def test_few_bits_in_a_16_bit_image_are_refused(bits: str, suffix: str) -> None:
    with pytest.raises(SourceError, match=r"picture\.png has 16 bits per channel and values up to \d+ of 65535"):
        read(encode(suffix, BITS[bits]))
    with pytest.raises(SourceError, match="the image has 16 bits per channel"):
        open_frame(Image.fromarray(BITS[bits][:, :, 0]), "image")


def test_a_black_16_bit_image_is_black() -> None:
    assert not read(encode(".png", np.zeros((8, 8), dtype=np.uint16))).any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P5\n4 2\n15\n" + bytes(range(8)), "has values up to 15; scale them to 0 to 255"),
        (b"P5\n# 12 bits\n4 2 4095\n" + bytes(16), "has values up to 4095; scale them to 0 to 255"),
        (encode(".tif", photo().astype(np.float32)), "has values of type float32; convert it to 8 bits"),
        (b"GIF89a" + bytes(100), "cannot be read as an image: it is damaged, or of a format that OpenCV"),
        (b"text", "cannot be read as an image: it is damaged, or of a format that OpenCV"),
    ],
    ids=["4 bits", "12 bits", "float", "GIF", "text"],
)
def test_values_that_would_be_guessed_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=f"picture.png {message}"):
        read(content)


INK = np.zeros((64, 64, 4), dtype=np.uint8)
INK[4:8, :, 3] = 255


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jp2"])
def test_transparent_pixels_lie_on_white(suffix: str, tmp_path: Path) -> None:
    """Black ink on a transparent ground is not a black picture, from a file or from PIL."""
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    path = tmp_path / f"ink{suffix}"
    path.write_bytes(encode(suffix, INK, *options))
    expected = np.where(INK[:, :, 3:] == 255, 0, 255).repeat(3, axis=2)
    assert (read_frame(path).pixels == expected).all()
    with Image.open(path) as image:
        assert (open_frame(image, "image").pixels == expected).all()


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    assert flatten(np.full((1, 1, 4), 51, dtype=np.uint8)).tolist() == [[[214, 214, 214]]]
    opaque = np.dstack([photo(), np.full(photo().shape[:2], 255, dtype=np.uint8)])
    assert (flatten(opaque) == photo()).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_turned_as_its_exif_data_say(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode_with_pillow(kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    (tmp_path / "photo").write_bytes(content)
    with Image.open(tmp_path / "photo") as image:
        expected = open_frame(image, "image").pixels
    assert expected.shape[:2] == ((384, 256) if orientation > 4 else (256, 384))
    assert np.abs(read(content).astype(int) - expected).max() <= (3 if kind == "JPEG" else 0)
    if kind == "JPEG":
        assert (read(content) == by_opencv(content)).all()


def test_the_reason_of_an_unreadable_file_is_the_system_s(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(JPEG)
    path.chmod(0)
    with without_privileges(), pytest.raises(SourceError, match=r"secret\.png cannot be read: Permission denied"):
        read_frame(path)


def test_a_loop_of_links_is_refused_with_the_system_s_reason(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(SourceError, match=r"loop\.png cannot be read: Too many levels of symbolic links"):
        read_frame(tmp_path / "loop.png")


def test_an_image_that_does_not_fit_into_memory_is_refused_as_such() -> None:
    content = encode(".jpg", np.zeros((9000, 9000, 3), dtype=np.uint8))
    with limited_memory(100_000_000), pytest.raises(SourceError, match=r"picture\.png cannot be read.*out of memory"):
        read(content)


@pytest.mark.parametrize(
    "content",
    [
        JPEG.replace(b"\x08\x01\x00\x01\x80\x03", b"\x08\xff\xdc\xff\xdc\x03"),
        JPEGS["progressive"].replace(b"\x08\x01\x00\x01\x80\x03", b"\x08\xff\xdc\xff\xdc\x03"),
        HEALTHY[".png"][:16] + b"\0\0\xff\xdc" * 2 + HEALTHY[".png"][24:],
    ],
    ids=["JPEG", "progressive JPEG", "PNG"],
)
def test_a_small_file_that_announces_a_huge_picture_is_refused_unread(content: bytes) -> None:
    with pytest.raises(
        SourceError, match=r"picture\.png cannot be read as an image: its header announces 65500 x 65500"
    ):
        read(content)


DECODE_HUGE = """
import struct
from pathlib import Path
from edge.errors import SourceError
from edge.frames.images import decode_image

BMP = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 1080, 0, 0, 1078, 40, 20000, 20000, 1, 8, 1, 2, 0, 0, 0, 0)
ENTRIES = {256: 20000, 257: 20000, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: 20000, 279: 9}
TIFF = b"II*\\0" + struct.pack("<IH", 8, len(ENTRIES))
TIFF += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ENTRIES.items())
for content in (BMP + bytes(1024) + b"\\0\\1", TIFF + bytes(4), b"P5 20000 20000 255 "):
    try:
        decode_image(content, Path("picture"))
    except SourceError as error:
        print(error)
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) >> 10)
"""
"""`ru_maxrss` would count the memory of the process that started this one."""


def test_a_huge_picture_in_a_small_file_of_any_format_is_refused_unread() -> None:
    done = subprocess.run([sys.executable, "-c", DECODE_HUGE], cwd=ROOT, capture_output=True, text=True, check=True)
    *errors, peak_mib = done.stdout.splitlines()
    refusal = f"picture cannot be read as an image: it has more than {MAX_PIXELS} pixels; give an image file"
    assert len(errors) == 3
    assert all(error.startswith(refusal) for error in errors)
    assert int(peak_mib) < 400  # pixels alone would be 1200


# Folders


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    real = tmp_path / "real"
    (real / "deep").mkdir(parents=True)
    (real / "deep" / "a.pgm").write_bytes(HEALTHY[".pgm"])
    (real / "up").symlink_to(real)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(real)
    assert files_in(folder) == [folder / "link" / "deep" / "a.pgm"]
    assert open_source(folder).frames == 1


def test_files_that_are_not_read_are_counted_by_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.gif", "b.gif", "c.heic", "README", ".hidden.gif"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "d.jfif").write_bytes(JPEG)
    with caplog.at_level(logging.WARNING):
        assert files_in(tmp_path) == [tmp_path / "d.jfif"]
    assert re.search(r"are not images or arrays and are ignored: 2 \.gif, 1 ", caplog.text)
    for kind in ("1 .heic", "1 no suffix", "1 broken links"):
        assert kind in caplog.text


def test_a_folder_without_images_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"holds no images .* and no \.npy arrays, but 1 \.heic"):
        open_source(tmp_path)


def test_a_class_that_holds_a_linked_folder_has_its_images_and_one_without_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("real", "data/a", "data/b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "real" / "0.png").write_bytes(HEALTHY[".png"])
    (tmp_path / "data" / "a" / "link").symlink_to(tmp_path / "real")
    assert labelled_files(tmp_path / "data", ("a", "b")) == ([tmp_path / "data" / "a" / "link" / "0.png"], [0])
    assert "b has no images" in caplog.text


@pytest.mark.parametrize("suffix", sorted(set(IMAGE_SUFFIXES) - {".pbm", ".jfif", ".jpe", ".dib", ".pnm", ".pgm"}))
def test_every_listed_format_is_read(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"picture{suffix}").write_bytes(encode(suffix, photo()))
    source = open_source(tmp_path)
    frame = source.read(None)
    assert frame is not None
    assert (frame.pixels.shape, frame.position) == (photo().shape, f"picture{suffix}")


@pytest.fixture
def damaged_folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("0.png", "1.png", "sub/2.png"):
        (tmp_path / name).write_bytes(HEALTHY[".png"])
    (tmp_path / "1.png").write_bytes(HEALTHY[".png"][:500])
    return tmp_path


def test_a_damaged_image_is_reported_when_it_is_read_and_not_before(damaged_folder: Path) -> None:
    source = open_source(damaged_folder)
    first = source.read(None)
    assert first is not None
    assert first.position == "0.png"
    with pytest.raises(SourceError, match=r"1\.png"):
        source.read(first)


def test_damaged_images_are_left_out_and_counted_on_request(
    damaged_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_source(damaged_folder, skip_bad=True)
    frames = list(iter(lambda: source.read(None), None))
    assert [frame.position for frame in frames] == ["0.png", "sub/2.png"]
    assert (source.damaged, source.frames) == (1, 3)
    assert "left out: " in caplog.text
    assert "1.png cannot be read as an image" in caplog.text
