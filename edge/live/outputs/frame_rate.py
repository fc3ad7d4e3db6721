"""A limit on the frames of each source that an output takes."""


class FrameRate:
    """Takes frames of a rate, on average where they come unevenly."""

    def __init__(self, rate: float) -> None:
        """Take at most `rate` frames a second of each source."""
        self._interval_s = 1 / rate
        self._due_s: dict[str, float] = {}

    def takes(self, source: str, now_s: float) -> bool:
        """Check that a frame of a source is due. Those that are count as taken; time may go back."""
        due_s = self._due_s.get(source, 0.0)
        if due_s - self._interval_s <= now_s < due_s:
            return False
        is_steady = due_s <= now_s < due_s + self._interval_s
        self._due_s[source] = (due_s if is_steady else now_s) + self._interval_s
        return True
