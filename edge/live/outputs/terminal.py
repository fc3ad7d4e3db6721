"""Messages for people."""

from collections.abc import Callable, Sequence

from edge.live.messages import Alarm, Audit, BundleChange, Event, Message, Observation, SourceChange, iso_time
from edge.live.outputs.base import Output


class Terminal(Output):
    """An output of events for people. It formats; the caller prints. The log has changes of sources and alarms."""

    name = "terminal"

    def __init__(self, write_line: Callable[[str], None]) -> None:
        """Store the function that prints a line."""
        self._write_line = write_line

    def write(self, messages: Sequence[Message]) -> None:
        """Print a line for each event."""
        for message in messages:
            if isinstance(message, Event):
                self._write_line(f"{iso_time(message.time)} {message.source}: {describe(message)}")


def describe(message: Message) -> str:
    """Return a message in words, without its time and source."""
    if isinstance(message, Observation):
        prediction = message.prediction
        return f"{prediction.label} {prediction.probability:.0%} at exit {prediction.exit_index}"
    if isinstance(message, Event):
        duration = "" if message.duration_s is None else f" after {message.duration_s:.1f} s"
        return f"{message.kind} {message.label}{duration}"
    if isinstance(message, SourceChange):
        return _describe_change(message)
    if isinstance(message, Audit):
        return f"frame {message.result.frame_index}: {message.result.label}, last exit {message.last.label}"
    if isinstance(message, Alarm):
        return f"alarm: {message.kind}: {message.reason}"
    if isinstance(message, BundleChange):
        return f"bundle {message.bundle} {message.status}: {message.reason}"
    return f"candidate {message.candidate_index + 1} of {message.candidates}: {message.reason}"


def _describe_change(change: SourceChange) -> str:
    reason = f": {change.reason}" if change.reason else ""
    return f"{change.status}{reason}" + (f" (reconnects: {change.reconnects})" if change.reconnects else "")
