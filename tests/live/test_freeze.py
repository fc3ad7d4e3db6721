"""A frozen picture: noticed after its time, and not before."""

import numpy as np
import pytest

from edge.frames.base import Frame, PixelFormat
from edge.live.freeze import INTERVAL_S, FreezeDetector

RATE = 10


def frames(count: int, changing: tuple[int, int] | None = None) -> list[Frame]:
    """Return frames of the same noise, in which one pixel may change each time."""
    base = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    result = []
    for index in range(count):
        pixels = base.copy()
        if changing:
            pixels[changing] = index % 256
        result.append(Frame(pixels, PixelFormat.BGR))
    return result


def first_frozen(sequence: list[Frame], detector: FreezeDetector) -> float | None:
    """Return the time in seconds at which the picture counts as frozen."""
    for index, frame in enumerate(sequence):
        if detector.is_frozen(frame, 1000 + index / RATE):
            return index / RATE
    return None


def test_the_same_pixels_are_noticed_after_the_time() -> None:
    assert first_frozen(frames(100), FreezeDetector(5)) == pytest.approx(5, abs=INTERVAL_S)


@pytest.mark.parametrize("place", [(0, 0), (119, 159), (57, 91)])
def test_a_single_pixel_that_changes_is_enough(place: tuple[int, int]) -> None:
    assert first_frozen(frames(100, place), FreezeDetector(2)) is None


def test_a_picture_that_changes_again_is_not_frozen() -> None:
    detector = FreezeDetector(2)
    assert first_frozen(frames(60), detector) is not None
    moved = frames(1, (3, 3))[0]
    assert not detector.is_frozen(moved, 2000)


def test_other_sizes_and_layouts_are_changes() -> None:
    detector = FreezeDetector(1)
    sizes = [(8, 8, 3), (8, 16, 3), (1, 1, 3), (12, 8)]
    for index in range(40):
        pixels = np.zeros(sizes[index // 5 % 4], dtype=np.uint8)
        assert not detector.is_frozen(Frame(pixels, PixelFormat.BGR), index / RATE)


def test_views_of_larger_memory_can_be_looked_at() -> None:
    detector = FreezeDetector(1)
    view = np.zeros((40, 60, 3), dtype=np.uint8)[5:30, 7:50]
    assert [detector.is_frozen(Frame(view, PixelFormat.BGR), seconds) for seconds in range(4)] == [False] * 2 + [
        True
    ] * 2
