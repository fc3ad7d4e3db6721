"""Counts and times of each source, from the messages to an output."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from edge.inference.result import Result
from edge.live.messages import (
    COUNTS,
    Alarm,
    AlarmKind,
    Audit,
    BundleChange,
    CandidateChange,
    Event,
    Message,
    Observation,
    SourceChange,
    SourceStatus,
)

LATENCY_BOUNDS_MS = (0.25, 0.5, 1, 2, 4, 8, 16, 33, 66, 125, 250, 500, 1000, 2000)


@dataclass(slots=True)
class SourceStatistics:
    """Counts and times of a source since the start; counters never fall."""

    frames: int = 0
    """Classified frames."""
    dropped: int = 0
    skipped: int = 0
    damaged: int = 0
    reconnects: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    """Classified frames by exit index."""
    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Events by kind and label."""
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_MS) + 1))
    """Classified frames up to each of `LATENCY_BOUNDS_MS`, and above the last."""
    latency_sum_ms: float = 0.0
    status: SourceStatus = "connected"
    reason: str = ""
    """Why it is not connected."""
    captured_s: float | None = None
    """Capture of the newest classified frame, on the monotonic clock; None before the first."""
    answered_s: float | None = None
    """Arrival of the newest result, on the same clock."""
    audits: Counter[str] = field(default_factory=Counter)
    """Frames that were selected for an audit, by outcome: `agrees`, `differs`, `left_out`."""
    alarms: dict[AlarmKind, Alarm] = field(default_factory=dict)
    """Alarms that were raised with the bundle that answers."""
    bundle: str = ""
    """Digest, shortened, of the bundle that answered the newest frame, where a tag is followed."""
    bundle_swaps: int = 0
    bundles_refused: int = 0
    follow_faults: int = 0
    """Failed attempts to ask the registry or to pull."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of a source in an interval."""

    exits: Counter[int] = field(default_factory=Counter)
    audits: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    reconnects: int = 0


class Intervals:
    """Counts of each source from one call to the next."""

    def __init__(self) -> None:
        """Begin at the start, when all counts are zero."""
        self._before: dict[str, Counts] = {}

    def end(self, name: str, source: SourceStatistics) -> Counts:
        """Return the counts of a source since the last call; another interval begins."""
        before = self._before.get(name, Counts())
        now = Counts(source.exits.copy(), source.audits.copy(), source.dropped, source.reconnects)
        self._before[name] = now
        return Counts(
            now.exits - before.exits,
            now.audits - before.audits,
            now.dropped - before.dropped,
            now.reconnects - before.reconnects,
        )


class Statistics:
    """Statistics of all sources. Threads may add messages and read at the same time."""

    def __init__(self) -> None:
        """Start without sources."""
        self.started_s = monotonic()
        self._sources: dict[str, SourceStatistics] = {}
        self._lock = threading.Lock()

    @contextmanager
    def sources(self) -> Iterator[dict[str, SourceStatistics]]:
        """Yield the statistics by source; none changes meanwhile."""
        with self._lock:
            yield self._sources

    def add(self, messages: Sequence[Message]) -> None:
        """Count messages."""
        now_s = monotonic()
        with self._lock:
            for message in messages:
                source = self._sources.get(message.source)
                if source is None:
                    source = self._sources[message.source] = SourceStatistics()
                if isinstance(message, Observation):
                    _add_result(source, message.result, now_s)
                else:
                    _add_other(source, message)


def _add_result(source: SourceStatistics, result: Result, now_s: float) -> None:
    source.frames += 1
    for name in COUNTS:
        setattr(source, name, max(getattr(source, name), getattr(result, name)))
    source.exits[result.prediction.exit_index] += 1
    source.latency_counts[bisect_left(LATENCY_BOUNDS_MS, result.latency_ms)] += 1
    source.latency_sum_ms += result.latency_ms
    source.captured_s, source.answered_s, source.bundle = result.captured_s, now_s, result.bundle


def _add_other(
    source: SourceStatistics, message: Event | SourceChange | Audit | Alarm | CandidateChange | BundleChange
) -> None:
    if isinstance(message, Event):
        source.events[message.kind, message.label] += 1
    elif isinstance(message, SourceChange):
        source.status, source.reason = message.status, message.reason
        source.reconnects = max(source.reconnects, message.reconnects)
    elif isinstance(message, Audit):
        source.audits[message.outcome] += 1
        source.audits["left_out"] = message.left_out
    elif isinstance(message, Alarm):
        source.alarms[message.kind] = message
    elif isinstance(message, BundleChange):
        _add_bundle_change(source, message)


def _add_bundle_change(source: SourceStatistics, change: BundleChange) -> None:
    source.follow_faults = change.faults
    source.bundles_refused += change.status == "refused"
    if change.status == "swapped":
        source.bundle_swaps += 1
        source.alarms.clear()  # they were about the bundle before


def describe_audits(audits: Counter[str]) -> str:
    """Return the outcomes of audits for people."""
    left_out = f", {audits['left_out']} left out" if audits["left_out"] else ""
    return f"{audits['agrees'] + audits['differs']} audited, {audits['differs']} differ{left_out}"
