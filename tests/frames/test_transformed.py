"""Rotated and cropped frames: the pixels of NumPy's own rotation, in the caller's memory, for every format."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import AddressError
from edge.frames.base import Frame, PixelFormat
from edge.frames.open import open_source
from edge.frames.options import Crop
from edge.frames.transformed import Transformed

SHAPES = {
    PixelFormat.BGR: (20, 32, 3),
    PixelFormat.BGRX: (20, 32, 4),
    PixelFormat.GRAY: (20, 32),
    PixelFormat.NV12: (30, 32),
}


class Frames:
    """A source of given frames, which reuses memory as cameras do."""

    frames = None

    def __init__(self, frames: Iterable[Frame], *, is_live: bool = False) -> None:
        self.is_live, self.damaged = is_live, 3
        self.is_closed = False
        self._frames = iter(frames)

    def read(self, out: Frame | None) -> Frame | None:
        frame = next(self._frames, None)
        if frame is None or out is None or out.pixels.shape != frame.pixels.shape:
            return frame
        out.pixels[...] = frame.pixels
        return Frame(out.pixels, frame.format, frame.position)

    def close(self) -> None:
        self.is_closed = True


def noise(pixel_format: PixelFormat, seed: int = 0) -> Frame:
    pixels = np.random.default_rng(seed).integers(0, 256, SHAPES[pixel_format], dtype=np.uint8)
    return Frame(pixels, pixel_format, f"{seed}.png")


def rotated(pixels: NDArray[np.uint8], degrees: int) -> NDArray[np.uint8]:
    return np.rot90(pixels, -degrees // 90)


def expected(frame: Frame, degrees: int, crop: Crop) -> NDArray[np.uint8]:
    """Return the transformed pixels; planes of NV12 are transformed apart."""
    if frame.format is not PixelFormat.NV12:
        turned = rotated(frame.pixels, degrees)
        return turned[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    luma, chroma = frame.pixels[:20], frame.pixels[20:].reshape(10, 16, 2)
    half = Crop(*(value // 2 for value in crop))
    luma = rotated(luma, degrees)[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    chroma = rotated(chroma, degrees)[half.top : half.top + half.height, half.left : half.left + half.width]
    return np.vstack([luma, chroma.reshape(half.height, crop.width)])


@pytest.mark.parametrize("pixel_format", SHAPES)
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [None, Crop(2, 4, 14, 12), Crop(0, 0, 2, 2), Crop(18, 18, 2, 2)])
def test_frames_are_rotated_and_then_cropped(pixel_format: PixelFormat, degrees: int, crop: Crop | None) -> None:
    size = (32, 20) if degrees % 180 == 0 else (20, 32)
    region = crop or Crop(0, 0, *size)
    frames = [noise(pixel_format, seed) for seed in range(3)]
    want = [expected(frame, degrees, region) for frame in frames]
    source = Transformed(Frames(frames), degrees, crop, "camera")
    out: Frame | None = None
    for index, pixels in enumerate(want):
        frame = source.read(out)
        assert frame is not None
        assert (frame.format, frame.position) == (pixel_format, f"{index}.png")
        np.testing.assert_array_equal(frame.pixels, pixels)
        assert frame.pixels.flags.c_contiguous
        assert out is None or frame.pixels is out.pixels  # the caller's memory is filled again
        out = frame
    assert source.read(out) is None


def test_memory_that_does_not_fit_is_left_alone() -> None:
    source = Transformed(Frames([noise(PixelFormat.BGR)]), 90, None, "camera")
    other = Frame(np.zeros((5, 5, 3), dtype=np.uint8), PixelFormat.BGR)
    frame = source.read(other)
    assert frame is not None
    assert frame.pixels.shape == (32, 20, 3)
    assert not other.pixels.any()


def test_a_frame_stays_while_the_next_ones_are_read() -> None:
    frames = [noise(PixelFormat.BGR, seed) for seed in range(3)]
    want = [frame.pixels.copy() for frame in frames]
    source = Transformed(Frames(frames), 0, Crop(0, 0, 32, 20), "camera")
    read = [source.read(None) for _ in frames]
    for frame, pixels in zip(read, want, strict=True):
        assert frame is not None
        np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize(
    ("pixel_format", "degrees", "crop", "message"),
    [
        (PixelFormat.BGR, 0, Crop(20, 0, 16, 16), "frames of 32x20, and crop=20,0,16,16 reaches to 36x16; choose"),
        (PixelFormat.BGR, 90, Crop(0, 0, 32, 20), "frames of 20x32, and crop=0,0,32,20 reaches to 32x20; choose"),
        (PixelFormat.NV12, 0, Crop(0, 0, 16, 22), "frames of 32x20, and crop=0,0,16,22 reaches to 16x22; choose"),
        (PixelFormat.NV12, 0, Crop(1, 3, 6, 7), "crop=1,3,6,7 is odd; choose even numbers, such as crop=0,2,6,8"),
    ],
)
def test_a_crop_that_does_not_fit_is_refused_with_the_sizes(
    pixel_format: PixelFormat, degrees: int, crop: Crop, message: str
) -> None:
    with pytest.raises(AddressError, match=f"camera gives .*{message}"):
        Transformed(Frames([noise(pixel_format)]), degrees, crop, "camera").read(None)


def test_arrays_are_not_rotated() -> None:
    array = Frame(np.zeros((3, 4, 4), dtype=np.float32), PixelFormat.ARRAY)
    with pytest.raises(AddressError, match="camera gives arrays, which cannot be rotated or cropped"):
        Transformed(Frames([array]), 90, None, "camera").read(None)


def test_a_live_source_that_shrinks_for_a_moment_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    tiny = Frame(np.zeros((1, 1, 3), dtype=np.uint8), PixelFormat.BGR)
    frames = [noise(PixelFormat.BGR, 0), tiny, tiny, noise(PixelFormat.BGR, 1)]
    source = Transformed(Frames(frames, is_live=True), 0, Crop(0, 0, 8, 8), "camera")
    read = [source.read(None), source.read(None)]
    assert [frame.position for frame in read if frame] == ["0.png", "1.png"]
    assert source.damaged == 3 + 2
    assert caplog.text.count("camera gives frames of 1x1, and crop=0,0,8,8 reaches to 8x8") == 1


def test_the_source_is_closed_with_its_transformation() -> None:
    source = Frames([])
    Transformed(source, 90, None, "camera").close()
    assert source.is_closed


def test_files_are_rotated_and_cropped_by_their_address(tmp_path: Path) -> None:
    pixels = noise(PixelFormat.BGR).pixels
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), pixels)
    for place in (f"{tmp_path}/images", f"file://{tmp_path}/images/a.png"):
        source = open_source(f"{place}?rotate=270&crop=1,2,10,7")
        frame = source.read(None)
        assert frame is not None
        assert (source.frames, frame.position) == (1, "a.png")
        np.testing.assert_array_equal(frame.pixels, np.rot90(pixels)[2:9, 1:11])
        source.close()
