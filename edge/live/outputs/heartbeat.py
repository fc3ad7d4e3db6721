"""A line in the log every minute: a sign of life, and a history of rates without a metrics server."""

import logging
import threading
from collections import Counter, deque
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

from edge.live.messages import Message, Observation
from edge.live.outputs.base import Output, OutputQueue
from edge.live.statistics import SourceStatistics, Statistics, describe_audits

INTERVAL_S = 60.0
MAX_AGES = 10_000
"""The percentile covers the last frames only, so that memory is bounded."""

log = logging.getLogger(__name__)


class Totals(NamedTuple):
    """Counts of a source since the start, at the time of a line."""

    exits: Counter[int]
    dropped: int
    reconnects: int
    audits: Counter[str]
    alarms: tuple[str, ...]


START = Totals(Counter(), 0, 0, Counter(), ())


class Heartbeat(Output):
    """An output that logs rates, exits, drops, the age of frames and reconnects of each source at fixed intervals."""

    name = "heartbeat"

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        """Log every `interval_s` seconds of the monotonic clock."""
        self._interval_s = interval_s
        self._queues: Sequence[OutputQueue] = ()
        self._statistics = Statistics()
        self._before: dict[str, Totals] = {}
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
            totals = {name: _totals(source) for name, source in sources.items()}
        before, self._before = self._before, totals
        lost = {queue.output.name: queue.dropped for queue in self._queues if queue.dropped}
        outputs = "".join(f"; {name} dropped {count} in all" for name, count in lost.items())
        return [
            f"{name}: {describe(now, before.get(name, START), seconds, ages_ms.get(name, ()))}{outputs}"
            for name, now in totals.items()
        ]


def describe(now: Totals, before: Totals, seconds: float, ages_ms: Sequence[float]) -> str:
    """Return the counts of an interval for people."""
    exits = now.exits - before.exits
    frames = exits.total()
    parts = [f"{frames / seconds:.1f} frames/s"]
    parts += [f"exit {index} {count / frames:.0%}" for index, count in sorted(exits.items())]
    parts.append(f"{now.dropped - before.dropped} dropped")
    if ages_ms:
        parts.append(f"frame age p95 {percentile_95(ages_ms):.1f} ms")
    parts.append(f"{now.reconnects - before.reconnects} reconnects")
    if audits := now.audits - before.audits:
        parts.append(describe_audits(audits))
    parts += [f"alarm: {kind}" for kind in now.alarms]
    return ", ".join(parts)


def _totals(source: SourceStatistics) -> Totals:
    return Totals(
        source.exits.copy(), source.dropped, source.reconnects, source.audits.copy(), tuple(sorted(source.alarms))
    )


def percentile_95(values: Sequence[float]) -> float:
    """Return the smallest value that 95 % of the values do not exceed."""
    ordered = sorted(values)
    return ordered[-(-95 * len(ordered) // 100) - 1]
