"""Triggers on frames made for them, and the source that obeys them."""

from collections.abc import Iterable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.frames.base import Frame, PixelFormat
from edge.live.triggers import HOLD_S, LEARN_FRAMES, Every, OnMotion, OnRequest, Trigger, Triggered, parse_trigger

HEIGHT, WIDTH = 240, 320
RATE = 30
BLANK = Frame(np.zeros((2, 2), dtype=np.uint8), PixelFormat.GRAY)


def scene(rng: np.random.Generator, box: tuple[int, int] | None = None, side: int = 60) -> NDArray[np.uint8]:
    """Return a noisy picture of a bright ramp, with a dark box in it."""
    picture = np.tile(np.linspace(80, 200, WIDTH), (HEIGHT, 1))[:, :, None].repeat(3, axis=2)
    if box is not None:
        picture[box[0] : box[0] + side, box[1] : box[1] + side] = 10
    return np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def as_format(bgr: NDArray[np.uint8], pixel_format: PixelFormat) -> Frame:
    if pixel_format is PixelFormat.GRAY:
        return Frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), pixel_format)
    if pixel_format is PixelFormat.BGRX:
        return Frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA), pixel_format)
    if pixel_format is PixelFormat.NV12:
        planes = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
        chroma = planes[HEIGHT:].reshape(2, -1).T.reshape(HEIGHT // 2, WIDTH)
        return Frame(np.concatenate([planes[:HEIGHT], chroma]), pixel_format)
    return Frame(bgr, pixel_format)


def fired(trigger: Trigger, frames: Iterable[Frame], start_s: float = 0.0) -> list[bool]:
    return [trigger.fires(frame, start_s + index / RATE) for index, frame in enumerate(frames)]


def learned_motion(rng: np.random.Generator, pixel_format: PixelFormat = PixelFormat.BGR) -> OnMotion:
    motion = OnMotion()
    assert not any(fired(motion, (as_format(scene(rng), pixel_format) for _ in range(LEARN_FRAMES))))
    return motion


@pytest.mark.parametrize(
    "pixel_format", [PixelFormat.BGR, PixelFormat.BGRX, PixelFormat.GRAY, PixelFormat.NV12], ids=lambda f: f.name
)
def test_motion_fires_while_something_moves_and_not_in_noise(pixel_format: PixelFormat) -> None:
    rng = np.random.default_rng(0)
    motion = learned_motion(rng, pixel_format)
    assert not any(fired(motion, (as_format(scene(rng), pixel_format) for _ in range(60)), start_s=10))
    moving = (as_format(scene(rng, box=(80, 40 + 8 * step)), pixel_format) for step in range(20))
    assert all(fired(motion, moving, start_s=20))


def test_motion_holds_for_a_moment_and_then_stops() -> None:
    rng = np.random.default_rng(1)
    motion = learned_motion(rng)
    assert motion.fires(Frame(scene(rng, box=(80, 100)), PixelFormat.BGR), 10.0)
    empty = Frame(scene(rng), PixelFormat.BGR)
    assert motion.fires(empty, 10.0 + HOLD_S - 0.01)
    assert not motion.fires(empty, 10.0 + HOLD_S + 0.01)


def test_motion_smaller_than_the_area_does_not_fire() -> None:
    rng = np.random.default_rng(2)
    small = Frame(scene(rng, box=(80, 100), side=40), PixelFormat.BGR)  # 2 % of the picture
    motion = {}
    for area in (0.01, 0.04):
        motion[area] = OnMotion(area)
        fired(motion[area], (Frame(scene(rng), PixelFormat.BGR) for _ in range(LEARN_FRAMES)))
    assert motion[0.01].fires(small, 10)
    assert not motion[0.04].fires(small, 10)


def test_a_camera_that_returns_with_another_size_is_learned_again() -> None:
    rng = np.random.default_rng(3)
    motion = learned_motion(rng)
    turned = [Frame(np.ascontiguousarray(np.rot90(scene(rng))), PixelFormat.BGR) for _ in range(LEARN_FRAMES + 10)]
    assert not any(fired(motion, turned, start_s=10))


def test_motion_in_arrays_is_refused() -> None:
    with pytest.raises(SourceError, match="every:5s"):
        OnMotion().fires(Frame(np.zeros((3, 8, 8), dtype=np.float32), PixelFormat.ARRAY), 0)


def test_every_fires_at_once_and_then_keeps_in_step() -> None:
    every = Every(1.0)
    moments = [7.0, 7.9, 8.1, 8.9, 9.05, 12.6, 13.0, 13.7]
    assert [every.fires(BLANK, now_s) for now_s in moments] == [True, False, True, False, True, True, False, True]


def test_a_message_fires_once() -> None:
    message = OnRequest()
    assert not message.fires(BLANK, 0)
    message.requested.set()
    assert [message.fires(BLANK, now_s) for now_s in (1, 2)] == [True, False]


class Clip:
    """A source of numbered frames, each written into the memory that it is given."""

    is_live, damaged = False, 3

    def __init__(self, frames: int, step_s: float | None = None) -> None:
        self.frames: int | None = frames
        self.is_closed = False
        self.memories: set[int] = set()
        self._next, self._step_s = 0, step_s

    def read(self, out: Frame | None) -> Frame | None:
        assert not self.is_closed
        if self._next == self.frames:
            return None
        pixels = np.zeros((1, 1), dtype=np.uint8) if out is None else out.pixels
        self.memories.add(id(pixels))
        pixels[:] = self._next
        position = None if self._step_s is None else self._next * self._step_s
        self._next += 1
        return Frame(pixels, PixelFormat.GRAY, position)

    def close(self) -> None:
        self.is_closed = True


class Multiples:
    """Fires for frames whose number is a multiple of another one."""

    def __init__(self, of: int) -> None:
        self._of = of

    def fires(self, frame: Frame, now_s: float) -> bool:
        return int(frame.pixels[0, 0]) % self._of == 0


def numbers(source: Triggered) -> list[int]:
    given = []
    while (frame := source.read(None)) is not None:
        given.append(int(frame.pixels[0, 0]))
    return given


def test_frames_that_are_not_looked_at_are_counted_as_skipped() -> None:
    triggered = Triggered(Clip(10), Multiples(of=4))
    assert numbers(triggered) == [0, 4, 8]
    assert triggered.skipped == 7
    assert triggered.damaged == 3


def test_skipped_frames_take_no_new_memory() -> None:
    clip = Clip(200)
    triggered = Triggered(clip, Multiples(of=256))
    first = triggered.read(None)
    assert triggered.read(first) is None
    assert len(clip.memories) == 1


def test_periods_of_a_video_are_seconds_of_the_video() -> None:
    assert numbers(Triggered(Clip(100, step_s=0.1), Every(2.0))) == [0, 20, 40, 60, 80]


class Joined(Clip):
    """A clip that consists of two files of the same length: its positions begin again in the middle."""

    def read(self, out: Frame | None) -> Frame | None:
        frame = super().read(out)
        if frame is None or self.frames is None or int(frame.pixels[0, 0]) < self.frames // 2:
            return frame
        return replace(frame, position=float(frame.position or 0) - self.frames // 2 * 0.1)


def test_periods_go_on_where_the_positions_of_a_video_begin_again() -> None:
    assert numbers(Triggered(Joined(100, step_s=0.1), Every(2.0))) == [0, 20, 40, 61, 81]  # 50 is as late as 49


def test_motion_is_not_held_longer_where_the_positions_of_a_video_begin_again() -> None:
    class Once(OnMotion):
        """Holds after motion in one frame."""

        def fires(self, frame: Frame, now_s: float) -> bool:
            pixels = scene(rng, box=(80, 100) if int(frame.pixels[0, 0]) == 49 else None)
            return super().fires(Frame(pixels, PixelFormat.BGR), now_s)

    rng = np.random.default_rng(4)
    assert numbers(Triggered(Joined(100, step_s=0.1), Once())) == list(range(49, 70))


def test_closing_ends_a_read_whose_trigger_never_fires() -> None:
    clip = Clip(50)

    class ClosesAtTen(Multiples):
        def fires(self, frame: Frame, now_s: float) -> bool:
            if frame.pixels[0, 0] == 10:
                triggered.close()
            return False

    triggered = Triggered(clip, ClosesAtTen(of=1))
    assert triggered.read(None) is None
    assert clip.is_closed
    assert triggered.skipped == 11


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("every:5s", Every),
        ("every:1.5m", Every),
        ("motion", OnMotion),
        ("motion:2.5%", OnMotion),
        ("message", OnRequest),
    ],
)
def test_triggers_are_described_in_words(text: str, kind: type) -> None:
    assert isinstance(parse_trigger(text), kind)


def test_the_unit_of_a_period_counts() -> None:
    every = parse_trigger("every:250ms")
    assert [every.fires(BLANK, now_s) for now_s in (0, 0.2, 0.26)] == [True, False, True]


@pytest.mark.parametrize(
    "text",
    ["", "every", "every:5", "every:0s", "every:-1s", "every:nans", "motion:", "motion:0%", "motion:101%", "Motion"],
)
def test_other_words_are_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(SourceError, match=r"is not a trigger; give every:5s .*motion:2%.* or message"):
        parse_trigger(text)
