"""Positions of frames in a video."""

from typing import Any


class Positions:
    """Seconds from a video's first frame, in order of display.

    AVI has no times of display: there, FFmpeg's `pts` counts packets in coded order, in which B-frames are not. Its
    `dts` ascends from frame to frame, after a delay; the last frames, which follow the last packet, have none.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        """Begin at the start of an opened stream."""
        self._is_avi = container.format.name == "avi"
        self._start, self._time_base = stream.start_time or 0, stream.time_base
        self._first: int | None = None if self._is_avi else self._start
        self._last = self._start - 1

    def of(self, frame: Any, *, is_after_damage: bool) -> float | None:
        """Return the position of the next frame; None if it has no time.

        Args:
            frame: The frame.
            is_after_damage: True if earlier frames were left out; the first one then does not show the delay of AVI.
        """
        if self._is_avi:
            self._last = max(self._last + 1, self._start if frame.dts is None else frame.dts)
        elif frame.pts is None:
            return None
        else:
            self._last = frame.pts
        if self._first is None:
            self._first = self._start if is_after_damage else self._last
        return float((self._last - self._first) * self._time_base)
