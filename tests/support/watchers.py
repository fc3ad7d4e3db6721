"""A follower of a live source that counts."""

from edge.live.reconnect import OnChange, ignore_change


class Watcher:
    """A `SourceWatcher`."""

    def __init__(self, on_change: OnChange = ignore_change) -> None:
        self.report = on_change
        self.attempts = 0
        self.skips: list[int] = []

    def attempt(self) -> None:
        self.attempts += 1

    def skip(self, passed: int) -> None:
        self.skips.append(passed)
