"""Time of a source that never goes back, and the moments at which something is due."""


class Timeline:
    """The seconds of a source; in a video whose positions fall, as where files were joined, they go on from there."""

    def __init__(self) -> None:
        """Begin at the first moment."""
        self._last_s, self._offset_s = float("-inf"), 0.0

    def at(self, moment_s: float) -> float:
        """Return the seconds at a moment, no fewer than those of the moment before."""
        if moment_s < self._last_s:
            self._offset_s += self._last_s - moment_s
        self._last_s = moment_s
        return moment_s + self._offset_s


class Pace:
    """The first moment of each period, so that the rate is right on average where moments come unevenly."""

    def __init__(self, period_s: float) -> None:
        """Begin with the first moment."""
        self._period_s, self._due_s = period_s, float("-inf")

    def takes(self, now_s: float) -> bool:
        """Check that a moment is due, and count it as taken; lateness does not add up, and time may go back."""
        if self._due_s - self._period_s <= now_s < self._due_s:
            return False
        is_in_step = self._due_s <= now_s < self._due_s + self._period_s
        self._due_s = (self._due_s if is_in_step else now_s) + self._period_s
        return True
