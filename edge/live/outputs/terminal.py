"""Messages for people: a line for each event and each change of a source, and a status of the newest results."""

from collections.abc import Callable, Sequence

from edge.live.messages import Event, Message, Observation, SourceChange, iso_time


class Terminal:
    """An output for people. It formats; the caller prints."""

    name, wants_frames = "terminal", False

    def __init__(self, write_line: Callable[[str], None], show_status: Callable[[str], None]) -> None:
        """Store the functions that print a line, and that replace the status."""
        self._write_line, self._show_status = write_line, show_status
        self._newest: dict[str, Observation] = {}

    def open(self) -> None:
        """Nothing to open."""

    def write(self, messages: Sequence[Message]) -> None:
        """Print lines and the status."""
        for message in messages:
            if isinstance(message, Observation):
                self._newest[message.source] = message
            else:
                self._write_line(f"{iso_time(message.time)} {message.source}: {describe(message)}")
        if self._newest:
            has_several = len(self._newest) > 1
            self._show_status("; ".join(
                f"{source}: {describe(newest)}" if has_several else describe(newest)
                for source, newest in self._newest.items()
            ))  # fmt: skip

    def close(self) -> None:
        """Nothing to close."""


def describe(message: Message) -> str:
    """Return a message in words, without its time and source."""
    if isinstance(message, Observation):
        prediction = message.prediction
        return f"{prediction.label} {prediction.probability:.0%} at exit {prediction.exit_index}"
    if isinstance(message, Event):
        duration = "" if message.duration_s is None else f" after {message.duration_s:.1f} s"
        return f"{message.kind} {message.label}{duration}"
    return _describe_change(message)


def _describe_change(change: SourceChange) -> str:
    reason = f": {change.reason}" if change.reason else ""
    return f"{change.status}{reason}" + (f" (reconnects: {change.reconnects})" if change.reconnects else "")
