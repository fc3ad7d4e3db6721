"""Delays between attempts to connect."""

from random import uniform


class Backoff:
    """Delays that double, with jitter, so that the clients of a server do not connect all at once."""

    def __init__(self, min_s: float) -> None:
        """Start with the shortest delay."""
        self._min_s = self._next_s = min_s

    def reset(self) -> None:
        """Start again with the shortest delay."""
        self._next_s = self._min_s

    def delay_s(self, max_s: float) -> float:
        """Return the delay before the next attempt, between half of its length and all of it, at most `max_s`."""
        longest_s = min(self._next_s, max_s)
        self._next_s = 2 * longest_s
        return longest_s * uniform(0.5, 1)  # noqa: S311 (no secret)
