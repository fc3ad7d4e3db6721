"""Triggers: the frames of a source that are worth a look."""

import re
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.frames.base import Frame, FrameSource, PixelFormat
from edge.live.timeline import Pace, Timeline

MOTION_SIZE = 160
"""Longer side, in pixels, of the picture in which motion is looked for."""
LEARN_FRAMES = 30
"""Frames that the background is learned from before any motion is reported."""
HOLD_S = 2.0
"""Seconds for which frames are still passed on after the last motion: a moving object is then seen at rest."""
DEFAULT_AREA = 0.01
"""Share of the picture that must change."""
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
EVERY = re.compile(r"every:(\d+(?:\.\d+)?)(ms|s|m|h)")
MOTION = re.compile(r"motion(?::(\d+(?:\.\d+)?)%)?")
GRAMMAR = "every:5s (or ms, m, h), motion, motion:2% (of the picture) or message"


class Trigger(Protocol):
    """Decision to classify a frame; each source has a trigger of its own."""

    def fires(self, frame: Frame, now_s: float) -> bool:
        """Check that a frame is to be classified. Called for every frame, in order.

        Args:
            frame: The frame; it may be overwritten afterwards.
            now_s: Moment of the frame: seconds of a video, else of the monotonic clock. It never goes back.
        """


class Every:
    """Fires once in each period, at the first frame that is due."""

    def __init__(self, period_s: float) -> None:
        """Fire at the first frame, and then every `period_s` seconds."""
        self._pace = Pace(period_s)

    def fires(self, frame: Frame, now_s: float) -> bool:
        """Check that a period has passed; lateness does not add up."""
        return self._pace.takes(now_s)


class OnMotion:
    """Fires while a part of the picture differs from its background, and a little longer.

    The background is learned from the first frames, and adapts: whatever stays becomes part of it.
    """

    def __init__(self, area: float = DEFAULT_AREA, hold_s: float = HOLD_S) -> None:
        """Fire where the share `area` of the picture changes, and for `hold_s` seconds afterwards."""
        self._area, self._hold_s = area, hold_s
        self._size: tuple[int, ...] = ()
        self._hold_until_s = -np.inf

    def fires(self, frame: Frame, now_s: float) -> bool:
        """Compare a frame with the background.

        Raises:
            SourceError: the source gives arrays.
        """
        picture = _small_gray(frame)
        if picture.shape != self._size:  # the first frame, or the camera came back with another size
            self._size, self._learned = picture.shape, 0
            self._background = cv2.createBackgroundSubtractorMOG2(detectShadows=False)
        changed = self._background.apply(picture)
        self._learned += 1
        if self._learned <= LEARN_FRAMES:
            return now_s < self._hold_until_s
        without_noise = cv2.morphologyEx(changed, cv2.MORPH_OPEN, np.ones((3, 3), dtype=np.uint8))
        if cv2.countNonZero(without_noise) >= self._area * picture.size:
            self._hold_until_s = now_s + self._hold_s
            return True
        return now_s < self._hold_until_s


class OnRequest:
    """Fires for the next frame after each message.

    Attributes:
        requested: Set by whoever receives the message.
    """

    def __init__(self) -> None:
        """Wait for the first message."""
        self.requested = threading.Event()

    def fires(self, frame: Frame, now_s: float) -> bool:
        """Check that a message has arrived since the last frame that was passed on."""
        if not self.requested.is_set():
            return False
        self.requested.clear()
        return True


def ignore_skip(passed: int) -> None:
    """Do nothing about a frame that is not passed on."""


class Triggered:
    """The frames of a source for which a trigger fires."""

    frames: int | None = None

    def __init__(
        self,
        source: FrameSource,
        trigger: Trigger,
        on_skip: Callable[[int], None] = ignore_skip,
        stop: threading.Event | None = None,
    ) -> None:
        """Put a trigger behind a source; `close` closes both.

        Args:
            source: The source.
            trigger: The trigger.
            on_skip: Called for each frame that is not passed on, with the number of those that were.
            stop: Ends a read whose trigger does not fire; the source then has no more frames.
        """
        self.skipped = 0
        """Frames that were not passed on."""
        self._source, self._trigger, self._on_skip = source, trigger, on_skip
        self._timeline, self._passed = Timeline(), 0
        self._stop, self._is_closed = stop or threading.Event(), False

    @property
    def is_live(self) -> bool:
        """True for cameras and streams."""
        return self._source.is_live

    @property
    def damaged(self) -> int:
        """Damaged frames or files that the source left out."""
        return int(getattr(self._source, "damaged", 0))

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame for which the trigger fires; None at the end, once stopped, and after `close`.

        Raises:
            SourceError: the source failed.
        """
        while not self._is_over and (frame := self._source.read(out)) is not None:
            now_s = self._timeline.at(frame.position if isinstance(frame.position, float) else monotonic())
            if self._trigger.fires(frame, now_s):
                self._passed += 1
                return frame
            self.skipped += 1
            self._on_skip(self._passed)
            out = out or frame
        return None

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self._stop.is_set()

    def close(self) -> None:
        """Close the source. A read in another thread ends with its next frame."""
        self._is_closed = True
        self._source.close()


def parse_trigger(text: str) -> Every | OnMotion | OnRequest:
    """Return a new trigger by its description on the command line.

    Raises:
        SourceError: the trigger is unknown, or its number is out of range.
    """
    if text == "message":
        return OnRequest()
    if (match := EVERY.fullmatch(text)) and (period_s := float(match[1]) * SECONDS[match[2]]) > 0:
        return Every(period_s)
    if match := MOTION.fullmatch(text):
        area = DEFAULT_AREA if match[1] is None else float(match[1]) / 100
        if 0 < area <= 1:
            return OnMotion(area)
    raise SourceError(f"{text!r} is not a trigger; give {GRAMMAR}")


def _small_gray(frame: Frame) -> NDArray[Any]:
    """Return a small gray version of a picture, at little cost for large ones."""
    if frame.format is PixelFormat.ARRAY:
        raise SourceError("motion cannot be seen in arrays; leave the trigger out, or give every:5s")
    height, width = frame.size
    pixels = frame.pixels[:height]  # of NV12, the luma
    scale = min(1.0, MOTION_SIZE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    twice = min(width, 2 * size[0]), min(height, 2 * size[1])
    sampled = cv2.resize(pixels, twice, interpolation=cv2.INTER_NEAREST)
    small = cv2.resize(sampled, size, interpolation=cv2.INTER_AREA)
    if small.ndim == 2:
        return small
    return cv2.cvtColor(small, cv2.COLOR_BGRA2GRAY if small.shape[2] == 4 else cv2.COLOR_BGR2GRAY)
