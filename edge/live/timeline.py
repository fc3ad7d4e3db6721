"""Time of a source that never goes back."""


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
