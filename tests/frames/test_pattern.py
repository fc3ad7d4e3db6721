"""The test pattern: the same on every machine, always in motion, and paced as a camera."""

import threading
import time

import numpy as np
import pytest

from edge.frames.base import Frame
from edge.frames.open import open_source


def test_the_pattern_is_the_same_each_time_and_moves_with_every_frame() -> None:
    first, second = (open_source("test://?size=64x48&rate=0&frames=50") for _ in range(2))
    assert (first.is_live, first.frames) == (False, 50)
    before = None
    out: Frame | None = None
    for _ in range(50):
        frame, out = first.read(None), second.read(out)
        assert frame is not None
        assert out is not None
        np.testing.assert_array_equal(frame.pixels, out.pixels)
        assert before is None or (frame.pixels != before).any()
        before = frame.pixels
    assert before is not None
    assert before.shape == (48, 64, 3)
    assert first.read(None) is None


def test_frames_are_drawn_into_the_callers_memory() -> None:
    source = open_source("test://?rate=0")
    frame = source.read(None)
    again = source.read(frame)
    assert frame is not None
    assert again is not None
    assert again.pixels is frame.pixels


@pytest.mark.parametrize("size", ["1x1", "2x1", "3x200"])
def test_any_size_can_be_drawn(size: str) -> None:
    source = open_source(f"test://?size={size}&rate=0&frames=20")
    width, height = map(int, size.split("x"))
    assert {source.read(None).pixels.shape for _ in range(20)} == {(height, width, 3)}  # type: ignore[union-attr]


def test_a_paced_pattern_takes_its_time_and_loses_frames_that_nobody_reads() -> None:
    started = time.monotonic()
    source = open_source("test://?size=64x48&rate=100")
    unpaced = open_source("test://?size=64x48&rate=0")
    assert source.is_live
    for _ in range(21):
        source.read(None)
    assert time.monotonic() - started >= 0.2
    time.sleep(0.3)
    frame = source.read(None)
    assert frame is not None
    earlier = [unpaced.read(None) for _ in range(40)]
    assert all((frame.pixels != other.pixels).any() for other in earlier if other)


def test_closing_ends_a_read_that_waits() -> None:
    source = open_source("test://?rate=0.001")
    assert source.read(None) is not None
    threading.Timer(0.05, source.close).start()
    assert source.read(None) is None
