"""Preprocessing: arithmetic, geometry, pixel formats, and frames that the network does not read."""

import platform
import re

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.bundle.manifest import InputSpec
from edge.errors import SourceError
from edge.frames.base import Frame, PixelFormat, frame_from_array
from edge.frames.preprocess import preprocess_for, resize
from tests.support.commands import random_frames


def gray_input(height: int = 8, width: int = 8, mean: float = 0.0, std: float = 1.0) -> InputSpec:
    return InputSpec("image", "gray", 1, height, width, (mean,), (std,))


def rgb_input(height: int = 8, width: int = 8) -> InputSpec:
    return InputSpec("image", "rgb", 3, height, width, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def array_input() -> InputSpec:
    return InputSpec("array", None, 2, 3, 4, (1.0, -2.0), (0.5, 4.0))


def preprocess(spec: InputSpec, pixels: NDArray[np.generic], pixel_format: PixelFormat | None = None) -> NDArray:
    """Preprocess an array into a buffer that held something else before. By default its shape tells its format."""
    frame = frame_from_array(pixels, spec.kind) if pixel_format is None else Frame(pixels, pixel_format)
    out = np.full(spec.shape, np.nan, dtype=np.float32)
    preprocess_for(spec)(frame, out)
    return out


def levels(spec: InputSpec, channel: int) -> NDArray[np.float32]:
    """Return the network input of each of the 256 values of a pixel."""
    return ((np.arange(256) / 255 - spec.mean[channel]) / spec.std[channel]).astype(np.float32)


def assert_same(spec: InputSpec, one: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    """Compare two inputs; on ARM, OpenCV resizes one, three and four channels with code that rounds differently."""
    tolerated_levels = 0 if platform.machine() == "x86_64" else 1
    difference = np.abs(one - other) * np.reshape(spec.std, (-1, 1, 1)) * 255
    assert difference.max() <= tolerated_levels + 1e-3


def test_every_gray_level_is_scaled_and_normalised_exactly() -> None:
    spec = gray_input(16, 16, mean=0.3, std=0.35)
    frame = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (preprocess(spec, frame)[0] == levels(spec, 0).reshape(16, 16)).all()


def test_channels_are_red_green_blue_each_with_its_own_constants() -> None:
    spec = rgb_input(16, 16)
    blue, green, red = (np.random.default_rng(seed).permutation(256).reshape(16, 16) for seed in range(3))
    network_input = preprocess(spec, np.stack([blue, green, red], axis=-1).astype(np.uint8))
    for channel, plane in enumerate((red, green, blue)):
        assert (network_input[channel] == levels(spec, channel)[plane]).all()


@pytest.mark.parametrize("size", [(8, 8), (40, 30), (8, 31), (5, 5)])
@pytest.mark.parametrize("spec", [gray_input(), rgb_input(), gray_input(6, 12), rgb_input(12, 6)])
def test_gray_images_with_one_channel_and_with_three_equal_channels_are_the_same(
    spec: InputSpec, size: tuple[int, int]
) -> None:
    gray = random_frames(1, *size)[0, :, :, 0]
    bgr = np.repeat(gray[:, :, None], 3, axis=2)
    assert_same(spec, preprocess(spec, gray), preprocess(spec, bgr))


def test_colour_is_converted_to_gray_as_opencv_does() -> None:
    frame = random_frames(1, 8, 8)[0]
    expected = levels(gray_input(), 0)[cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)]
    assert (preprocess(gray_input(), frame)[0] == expected).all()


@pytest.mark.parametrize("spec", [gray_input(), rgb_input(), rgb_input(12, 6)])
def test_the_fourth_byte_of_a_bgrx_pixel_is_ignored(spec: InputSpec) -> None:
    bgr = random_frames(1, 24, 30)[0]
    bgrx = np.dstack([bgr, np.random.default_rng(0).integers(0, 256, (24, 30), dtype=np.uint8)])
    assert_same(spec, preprocess(spec, bgrx), preprocess(spec, bgr))


@pytest.mark.parametrize("spec", [gray_input(), rgb_input(), rgb_input(12, 6)])
@pytest.mark.parametrize("size", [(24, 30), (8, 8), (2, 2)])
def test_nv12_is_read_as_the_bgr_image_of_opencv(size: tuple[int, int], spec: InputSpec) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (size[0] * 3 // 2, size[1]), dtype=np.uint8)
    bgr = cv2.cvtColor(rows, cv2.COLOR_YUV2BGR_NV12)
    assert bgr.shape == (*size, 3)
    assert (preprocess(spec, rows, PixelFormat.NV12) == preprocess(spec, bgr)).all()


def test_an_array_of_the_shape_of_nv12_is_gray_unless_its_format_is_given() -> None:
    rows = random_frames(1, 12, 8)[0, :, :, 0]
    assert frame_from_array(rows, "image").format is PixelFormat.GRAY
    assert (preprocess(rgb_input(), rows) == preprocess(rgb_input(), rows, PixelFormat.GRAY)).all()
    assert (preprocess(rgb_input(), rows) != preprocess(rgb_input(), rows, PixelFormat.NV12)).any()


@pytest.mark.parametrize(
    ("pixel_format", "shape"),
    [
        (PixelFormat.BGR, (48, 64, 3)),
        (PixelFormat.BGRX, (48, 64, 4)),
        (PixelFormat.GRAY, (48, 64)),
        (PixelFormat.NV12, (72, 64)),
        (PixelFormat.ARRAY, (5, 48, 64)),
    ],
)
def test_the_size_of_a_frame_is_that_of_its_picture(pixel_format: PixelFormat, shape: tuple[int, ...]) -> None:
    assert Frame(np.zeros(shape, np.uint8), pixel_format).size == (48, 64)


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 4, 3), (0, 4)])
def test_nv12_of_an_impossible_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SourceError, match=r"NV12 frame has shape .*NV12 \(3/2 height, width\) of even size"):
        preprocess(rgb_input(), np.zeros(shape, np.uint8), PixelFormat.NV12)


@pytest.mark.parametrize("size", [(16, 16), (4, 4), (13, 13)])
def test_resizing_equals_that_of_opencv(size: tuple[int, int]) -> None:
    frame = random_frames(1, *size)[0]
    expected = cv2.resize(frame, (8, 8), interpolation=cv2.INTER_LINEAR)
    assert (resize(frame, rgb_input()) == expected).all()


@pytest.mark.parametrize(
    ("size", "spec", "crop"),
    [
        ((20, 40), gray_input(8, 8), (slice(0, 20), slice(10, 30))),
        ((40, 20), gray_input(8, 8), (slice(10, 30), slice(0, 20))),
        ((40, 40), gray_input(8, 16), (slice(10, 30), slice(0, 40))),
        ((480, 640), gray_input(32, 32), (slice(0, 480), slice(80, 560))),
        ((8, 8), gray_input(8, 8), (slice(0, 8), slice(0, 8))),
    ],
)
def test_the_largest_centred_crop_of_the_aspect_ratio_is_taken(
    size: tuple[int, int], spec: InputSpec, crop: tuple[slice, slice]
) -> None:
    frame = random_frames(1, *size)[0]
    cropped = frame[crop]
    assert cropped.shape[0] * spec.width == cropped.shape[1] * spec.height, "the test's own crop changes proportions"
    expected = cv2.resize(cropped, (spec.width, spec.height), interpolation=cv2.INTER_LINEAR)
    assert (resize(frame, spec) == expected).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 1000)])
def test_tiny_and_thin_images_are_read(size: tuple[int, int]) -> None:
    assert np.isfinite(preprocess(rgb_input(), random_frames(1, *size)[0])).all()


def test_an_image_much_thinner_than_the_input_is_read() -> None:
    assert np.isfinite(preprocess(rgb_input(4, 40), random_frames(1, 50, 1)[0])).all()


def test_a_view_into_a_larger_image_is_read_as_its_copy_is() -> None:
    large = random_frames(1, 64, 64)[0]
    view = large[5:45:2, 60:20:-2]
    assert (preprocess(rgb_input(), view) == preprocess(rgb_input(), view.copy())).all()


def test_preprocessing_does_not_change_the_frame() -> None:
    frame = random_frames(1, 20, 30)[0]
    before = frame.copy()
    preprocess(gray_input(), frame)
    assert (frame == before).all()


NO_PICTURES = [
    np.zeros((8, 8, 3), dtype=np.float32),
    np.zeros((8, 8), dtype=np.uint16),
    np.zeros((8, 8), dtype=bool),
    np.zeros((8, 8, 5), dtype=np.uint8),
    np.zeros((8, 8, 1), dtype=np.uint8),
    np.zeros((3, 8, 8), dtype=np.uint8),
    np.zeros((1, 8, 8, 3), dtype=np.uint8),
    np.zeros(64, dtype=np.uint8),
    np.zeros((0, 8, 3), dtype=np.uint8),
]
each_array_that_is_no_picture = pytest.mark.parametrize(
    "pixels", NO_PICTURES, ids=lambda pixels: f"{pixels.dtype}{list(pixels.shape)}"
)
each_input = pytest.mark.parametrize("spec", [gray_input(), rgb_input()], ids=["gray", "rgb"])
PICTURE_FORMATS = [PixelFormat.BGR, PixelFormat.BGRX, PixelFormat.GRAY, PixelFormat.NV12]


@each_array_that_is_no_picture
@each_input
def test_an_array_that_is_no_8_bit_image_is_refused_with_shape_and_type(
    spec: InputSpec, pixels: NDArray[np.generic]
) -> None:
    with pytest.raises(SourceError) as error:
        preprocess(spec, pixels)
    assert str(pixels.shape) in str(error.value)
    assert str(pixels.dtype) in str(error.value)


@each_array_that_is_no_picture
@pytest.mark.parametrize("pixel_format", PICTURE_FORMATS, ids=lambda pixel_format: pixel_format.value)
def test_pixels_that_do_not_fit_the_format_of_the_frame_are_refused(
    pixel_format: PixelFormat, pixels: NDArray[np.generic]
) -> None:
    with pytest.raises(SourceError) as error:
        preprocess(rgb_input(), pixels, pixel_format)
    assert f"{pixel_format.value} frame has shape {pixels.shape}, dtype {pixels.dtype}" in str(error.value)


@each_input
def test_an_image_network_refuses_frames_of_arrays(spec: InputSpec) -> None:
    with pytest.raises(SourceError, match=r"array frame has shape .*; this bundle reads 8-bit images"):
        preprocess(spec, np.zeros((3, 8, 8), np.float32), PixelFormat.ARRAY)


@pytest.mark.parametrize("pixel_format", PICTURE_FORMATS, ids=lambda pixel_format: pixel_format.value)
def test_an_array_network_refuses_frames_of_pictures(pixel_format: PixelFormat) -> None:
    with pytest.raises(SourceError, match=f"{pixel_format.value} frame has shape .*; this bundle reads arrays of numb"):
        preprocess(array_input(), np.zeros((2, 3, 4), np.uint8), pixel_format)


@pytest.mark.parametrize("kind", ["U1", "O", "c8", "M8[s]"])
def test_an_array_of_no_numbers_is_refused_with_its_type(kind: str) -> None:
    with pytest.raises(
        SourceError, match=f"dtype {re.escape(str(np.dtype(kind)))}; this bundle reads arrays of numbers"
    ):
        preprocess(array_input(), np.zeros((2, 3, 4), dtype=kind))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, -3e38])
@pytest.mark.parametrize("mask", [False, True])
def test_an_array_with_values_that_are_not_finite_in_float32_is_refused(value: float, mask: bool) -> None:
    array = np.ma.masked_invalid(np.zeros((2, 3, 4))) if mask else np.zeros((2, 3, 4))
    array[0, 2, 3] = value
    with pytest.raises(SourceError, match="NaN, infinity or numbers too large for float32"):
        preprocess(array_input(), array)


def test_arrays_are_normalised_channel_by_channel() -> None:
    array = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    expected = np.stack([(array[0] - np.float32(1)) / np.float32(0.5), (array[1] + np.float32(2)) / np.float32(4)])
    network_input = preprocess(array_input(), array)
    assert network_input.dtype == np.float32
    assert (network_input == expected).all()


@pytest.mark.parametrize("shape", [(3, 4, 2), (2, 3), (1, 3, 4), (2, 4, 3), (1, 2, 3, 4)])
def test_an_array_of_another_shape_is_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(SourceError) as error:
        preprocess(array_input(), np.zeros(shape, dtype=np.float32))
    assert str(shape) in str(error.value)
    assert "(2, 3, 4)" in str(error.value)
