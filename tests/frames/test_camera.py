"""Modes of local cameras, with a stand-in for OpenCV's driver, which selects another mode where it has none such."""

from typing import Any

import cv2
import numpy as np
import pytest

from edge.errors import AddressError, SourceLostError
from edge.frames.open import open_source

MJPG, YUYV = (float(cv2.VideoWriter.fourcc(*name)) for name in ("MJPG", "YUYV"))
SIZES = {(640.0, 480.0), (1280.0, 720.0)}


class Capture:
    """A camera with two sizes, at 30 frames a second, that gives three frames."""

    def __init__(self, *address: Any) -> None:
        self.values = {
            cv2.CAP_PROP_FOURCC: YUYV,
            cv2.CAP_PROP_FRAME_WIDTH: 640.0,
            cv2.CAP_PROP_FRAME_HEIGHT: 480.0,
            cv2.CAP_PROP_FPS: 30.0,
        }
        self.is_open, self.frames = True, 3

    def isOpened(self) -> bool:  # noqa: N802
        return self.is_open

    def set(self, key: int, value: float) -> bool:
        sizes = {size for size in SIZES if value in size}
        if key == cv2.CAP_PROP_FOURCC:
            self.values[key] = value if value in (MJPG, YUYV) else YUYV
        elif key != cv2.CAP_PROP_FPS and sizes:
            self.values[cv2.CAP_PROP_FRAME_WIDTH], self.values[cv2.CAP_PROP_FRAME_HEIGHT] = sizes.pop()
        return True

    def get(self, key: int) -> float:
        return self.values[key]

    def read(self, image: Any = None) -> tuple[bool, Any]:
        assert self.is_open
        self.frames -= 1
        size = int(self.values[cv2.CAP_PROP_FRAME_HEIGHT]), int(self.values[cv2.CAP_PROP_FRAME_WIDTH])
        return self.frames >= 0, np.zeros((*size, 3), dtype=np.uint8)

    def release(self) -> None:
        self.is_open = False


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Capture]:
    made: list[Capture] = []

    def create(*address: Any) -> Capture:
        made.append(Capture(*address))
        return made[-1]

    class Factory:
        def __new__(cls, *address: Any) -> Any:
            return create(*address)

        release = Capture.release
        fourcc = staticmethod(cv2.VideoWriter.fourcc)

    monkeypatch.setattr(cv2, "VideoCapture", Factory)
    return made


def test_a_mode_of_the_camera_is_selected(captures: list[Capture]) -> None:
    source = open_source("0?size=1280x720&rate=29.97&codec=mjpeg&crop=0,0,100,50")
    frame = source.read(None)
    assert frame is not None
    assert frame.size == (50, 100)
    assert captures[0].values[cv2.CAP_PROP_FRAME_WIDTH] == 1280
    assert captures[0].values[cv2.CAP_PROP_FOURCC] == MJPG
    source.close()
    assert not captures[0].is_open


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("size=1024x768", "camera 0 has no mode of width 1024 (it selects 640); choose one of those that `v4l2-ctl"),
        ("size=1280x960", "camera 0 has no mode of height 960 (it selects 720)"),
        ("rate=60", "camera 0 has no mode of rate 60 (it selects 30)"),
        ("codec=h264", "camera 0 cannot be read in h264; choose codec=mjpeg, or a GStreamer pipeline"),
        ("crop=600,0,100,100", "0?crop=600,0,100,100 gives frames of 640x480, and crop=600,0,100,100 reaches to"),
    ],
)
def test_a_mode_that_the_camera_has_not_is_refused_with_the_one_it_selects(
    option: str, message: str, captures: list[Capture]
) -> None:
    with pytest.raises(AddressError) as caught:
        open_source(f"0?{option}").read(None)
    assert str(caught.value).startswith(message)
    assert option.startswith("crop") or not captures[0].is_open


def test_a_camera_with_a_time_limit_is_read_and_lost_as_without(captures: list[Capture]) -> None:
    source = open_source("0?timeout=20")
    assert source.is_live
    for _ in range(3):
        assert source.read(None) is not None
    with pytest.raises(SourceLostError, match="camera 0 stopped giving frames after 3; check the cable"):
        source.read(None)
