"""A line in the log every minute: a sign of life, and a history of rates without a metrics server."""

import logging
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from edge.live.messages import Message, Observation, SourceChange
from edge.live.outputs.base import Output, OutputQueue

INTERVAL_S = 60.0
MAX_AGES = 10_000
"""The percentile covers the last frames only, so that memory is bounded."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Beat:
    """Counts of a source since the last line."""

    exits: Counter[int] = field(default_factory=Counter)
    """Classified frames by exit index."""
    ages_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_AGES))
    dropped: int = 0
    reconnects: int = 0


@dataclass(slots=True)
class Totals:
    """Counts of a source since the start, as its newest messages have them."""

    dropped: int = 0
    reconnects: int = 0


class Heartbeat(Output):
    """An output that logs rates, exits, drops, the age of frames and reconnects of each source at fixed intervals."""

    name = "heartbeat"

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        """Beat every `interval_s` seconds of the monotonic clock."""
        self._interval_s = interval_s
        self._queues: Sequence[OutputQueue] = ()
        self._beats: dict[str, Beat] = {}
        self._totals: dict[str, Totals] = {}
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def watch(self, queues: Sequence[OutputQueue]) -> None:
        """Report drops of these outputs, too."""
        self._queues = queues

    def open(self) -> None:
        """Start to beat."""
        self._thread.start()

    def write(self, messages: Sequence[Message]) -> None:
        """Count messages."""
        with self._lock:
            for message in messages:
                beat = self._beats.setdefault(message.source, Beat())
                totals = self._totals.setdefault(message.source, Totals())
                if isinstance(message, Observation):
                    beat.exits[message.prediction.exit_index] += 1
                    beat.ages_ms.append(message.age_ms)
                    beat.dropped += message.dropped - totals.dropped
                    totals.dropped = message.dropped
                elif isinstance(message, SourceChange):
                    beat.reconnects += message.reconnects - totals.reconnects
                    totals.reconnects = message.reconnects

    def close(self) -> None:
        """Stop. Idempotent."""
        self._stopping.set()

    def _run(self) -> None:
        started_s = monotonic()
        while not self._stopping.wait(started_s + self._interval_s - monotonic()):
            now_s = monotonic()
            for line in self.lines(now_s - started_s):
                log.info("%s", line)
            started_s = now_s

    def lines(self, seconds: float) -> list[str]:
        """Return a line for each source, and begin to count again."""
        with self._lock:
            beats, self._beats = self._beats, {source: Beat() for source in self._beats}
        lost = {queue.output.name: queue.dropped for queue in self._queues if queue.dropped}
        outputs = "".join(f"; {name} dropped {count} in all" for name, count in lost.items())
        return [f"{source}: {describe(beat, seconds)}{outputs}" for source, beat in beats.items()]


def describe(beat: Beat, seconds: float) -> str:
    """Return the counts of so many seconds for people."""
    frames = beat.exits.total()
    parts = [f"{frames / seconds:.1f} frames/s"]
    parts += [f"exit {index} {count / frames:.0%}" for index, count in sorted(beat.exits.items())]
    parts.append(f"{beat.dropped} dropped")
    if beat.ages_ms:
        parts.append(f"frame age p95 {percentile_95(beat.ages_ms):.1f} ms")
    parts.append(f"{beat.reconnects} reconnects")
    return ", ".join(parts)


def percentile_95(values: Sequence[float]) -> float:
    """Return the smallest value that 95 % of the values do not exceed."""
    ordered = sorted(values)
    return ordered[-(-95 * len(ordered) // 100) - 1]
