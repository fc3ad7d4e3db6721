"""Pictures: JPEG of frames in the sizes of viewers, with header and attention map."""

from base64 import b64decode
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.bundle.manifest import InputSpec
from edge.frames.base import Frame, PixelFormat
from edge.live.view.pictures import encode_pictures
from tests.support.observations import observation
from tests.support.view import split_picture

SQUARE = InputSpec("image", "gray", 1, 16, 16, (0.0,), (1.0,))


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [(480, 640, 320, (240, 320)), (480, 640, 640, (480, 640)), (640, 480, 320, (320, 240)), (20, 30, 1280, (20, 30))],
)
def test_the_longest_side_is_the_requested_one_and_never_enlarged(
    height: int, width: int, size: int, expected: tuple[int, int]
) -> None:
    frame = Frame(gradient(height, width), PixelFormat.GRAY)
    picture = encode_pictures(observation(0, frame=frame), 3, (size,), None)[size]
    header, pixels = split_picture(picture.message)
    assert header["picture"] == 3
    assert (header["label"], header["exit_index"], header["probability"]) == ("7", 0, 0.9)
    assert pixels.shape[:2] == expected
    assert picture.message.endswith(picture.jpeg)
    assert abs(pixels[:, :, 0].astype(int) - gradient(*expected)).max() < 12


def test_sizes_that_do_not_shrink_the_frame_share_a_jpeg() -> None:
    frame = Frame(gradient(480, 640), PixelFormat.GRAY)
    pictures = encode_pictures(observation(0, frame=frame), 0, (320, 640, 1280), None)
    assert pictures[640] is pictures[1280]
    assert len(pictures[320].jpeg) < len(pictures[640].jpeg)


@pytest.mark.parametrize("pixel_format", [PixelFormat.BGR, PixelFormat.BGRX, PixelFormat.NV12])
def test_colours_of_every_pixel_format_are_kept(pixel_format: PixelFormat) -> None:
    red = np.full((48, 64, 3), (0, 0, 255), np.uint8)
    i420 = cv2.cvtColor(red, cv2.COLOR_BGR2YUV_I420)
    chroma = np.stack([i420[48:60].reshape(24, 32), i420[60:].reshape(24, 32)], axis=-1).reshape(24, 64)
    pixels: dict[PixelFormat, Any] = {
        PixelFormat.BGR: red,
        PixelFormat.BGRX: cv2.cvtColor(red, cv2.COLOR_BGR2BGRA),
        PixelFormat.NV12: np.concatenate([i420[:48], chroma]),
    }
    [picture] = encode_pictures(
        observation(0, frame=Frame(pixels[pixel_format], pixel_format)), 0, (640,), None
    ).values()
    _, decoded = split_picture(picture.message)
    assert decoded.shape == red.shape
    assert abs(decoded.astype(int) - red).max() < 12


@pytest.mark.parametrize(
    ("size", "region"), [((48, 96), [0.25, 0, 0.5, 1]), ((96, 48), [0, 0.25, 1, 0.5]), ((32, 32), [0, 0, 1, 1])]
)
def test_the_attention_map_lies_on_the_crop_that_the_network_reads(size: tuple[int, int], region: list[float]) -> None:
    attention = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.9]], np.float32)
    seen = observation(0, frame=Frame(gradient(*size), PixelFormat.GRAY))
    [picture] = encode_pictures(replace(seen, attention=attention), 0, (320,), SQUARE).values()
    sent = split_picture(picture.message)[0]["attention"]
    assert sent["region"] == pytest.approx(region)
    assert (sent["height"], sent["width"]) == attention.shape
    assert list(b64decode(sent["values"])) == [0, 31, 63, 95, 127, 255]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.25, float("nan")])
def test_a_map_without_contrast_shows_nothing(value: float) -> None:
    seen = observation(0, frame=Frame(gradient(32, 32), PixelFormat.GRAY))
    [picture] = encode_pictures(replace(seen, attention=np.full((2, 2), value, np.float32)), 0, (320,), SQUARE).values()
    assert b64decode(split_picture(picture.message)[0]["attention"]["values"]) == bytes(4)
