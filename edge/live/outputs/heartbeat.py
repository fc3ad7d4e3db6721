"""A line in the log every minute: a sign of life, and a history of rates without a metrics server."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic

from edge.live.messages import Message, Observation
from edge.live.outputs.base import Output, OutputQueue
from edge.live.statistics import Counts, Intervals, Statistics, describe_audits

INTERVAL_S = 60.0
MAX_AGES = 10_000
"""The percentile covers the last frames only, so that memory is bounded."""

log = logging.getLogger(__name__)


class Heartbeat(Output):
    """An output that logs rates, exits, drops, the age of frames and reconnects of each source at fixed intervals."""

    name = "heartbeat"

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        """Log every `interval_s` seconds of the monotonic clock."""
        self._interval_s = interval_s
        self._queues: Sequence[OutputQueue] = ()
        self._statistics = Statistics()
        self._intervals = Intervals()
        self._ages_ms: dict[str, deque[float]] = {}
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def watch(self, queues: Sequence[OutputQueue]) -> None:
        """Also report drops of these outputs."""
        self._queues = queues

    def open(self) -> None:
        """Start to beat."""
        self._thread.start()

    def write(self, messages: Sequence[Message]) -> None:
        """Count messages."""
        self._statistics.add(messages)
        with self._lock:
            for message in messages:
                if isinstance(message, Observation):
                    ages_ms = self._ages_ms.setdefault(message.source, deque(maxlen=MAX_AGES))
                    ages_ms.append(message.result.age_ms)

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
        """Return a line for each source, on the time since the previous lines."""
        with self._lock:
            ages_ms, self._ages_ms = self._ages_ms, {}
        with self._statistics.sources() as sources:
            counts = {name: (self._intervals.end(name, each), sorted(each.alarms)) for name, each in sources.items()}
        lost = {queue.output.name: queue.dropped for queue in self._queues if queue.dropped}
        outputs = "".join(f"; {name} dropped {count} in all" for name, count in lost.items())
        return [
            f"{name}: {describe(each, alarms, seconds, ages_ms.get(name, ()))}{outputs}"
            for name, (each, alarms) in counts.items()
        ]


def describe(counts: Counts, alarms: Sequence[str], seconds: float, ages_ms: Sequence[float]) -> str:
    """Return the counts of an interval, and the alarms that are raised, for people."""
    frames = counts.exits.total()
    parts = [f"{frames / seconds:.1f} frames/s"]
    parts += [f"exit {index} {count / frames:.0%}" for index, count in sorted(counts.exits.items())]
    parts.append(f"{counts.dropped} dropped")
    if ages_ms:
        parts.append(f"frame age p95 {percentile_95(ages_ms):.1f} ms")
    parts.append(f"{counts.reconnects} reconnects")
    if counts.audits:
        parts.append(describe_audits(counts.audits))
    parts += [f"alarm: {kind}" for kind in alarms]
    return ", ".join(parts)


def percentile_95(values: Sequence[float]) -> float:
    """Return the smallest value that 95 % of the values do not exceed."""
    ordered = sorted(values)
    return ordered[-(-95 * len(ordered) // 100) - 1]
