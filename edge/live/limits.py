"""Limits of the rate of calls."""

from time import monotonic

MAX_CLIENTS = 1000
"""Clients whose calls are counted; further ones replace the client whose last call is the oldest."""
TOTAL_FACTOR = 10
"""Limit of all clients together, as a multiple of a client's."""


class RateLimit:
    """A number of calls a second, and some more at once: a token bucket."""

    def __init__(self, per_s: float, burst: int) -> None:
        """Start full."""
        self._per_s, self._burst = per_s, burst
        self._left, self._at_s = float(burst), monotonic()

    @property
    def is_reached(self) -> bool:
        """True where the next call would exceed the limit."""
        now_s = monotonic()
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return self._left < 1

    def takes(self) -> bool:
        """Check that another call is within the limit, and count it."""
        if self.is_reached:
            return False
        self._left -= 1
        return True


class ClientLimits:
    """A rate limit for each client, so that a client does not lock others out, and a wider limit for all together."""

    def __init__(self, per_s: float, burst: int) -> None:
        """Set the limit of a client."""
        self._per_s, self._burst = per_s, burst
        self._clients: dict[str, RateLimit] = {}
        self._total = RateLimit(TOTAL_FACTOR * per_s, TOTAL_FACTOR * burst)

    def is_reached(self, client: str) -> bool:
        """Check that the next call of a client would exceed its limit or that of all."""
        limit = self._clients.get(client)
        return self._total.is_reached or (limit is not None and limit.is_reached)

    def takes(self, client: str) -> bool:
        """Check that another call of a client is within both limits, and count it."""
        limit = self._clients.pop(client, None) or RateLimit(self._per_s, self._burst)
        self._clients[client] = limit  # the last is the newest
        if len(self._clients) > MAX_CLIENTS:
            del self._clients[next(iter(self._clients))]
        return limit.takes() and self._total.takes()
