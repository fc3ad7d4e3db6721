"""The last minutes of each source, second by second, for charts."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any

import numpy as np

from edge.live.messages import Message, Observation
from edge.live.statistics import Intervals, SourceStatistics, Statistics
from edge.live.view.power import PowerReader

SECONDS = 300
MAX_LATENCIES = 2000
"""Latencies of a second that its percentiles cover at most."""


@dataclass(frozen=True, slots=True)
class Point:
    """A second of a source."""

    frames: int
    exits: tuple[int, ...]
    """Frames by exit index."""
    dropped: int
    reconnects: int
    latency_p50_ms: float | None
    """None without frames, as for the other times."""
    latency_p95_ms: float | None
    frame_age_s: float | None
    """Time since the capture of the newest classified frame; None before the first."""
    power_w: float | None
    """Power of the meter's total; None without a meter."""
    energy_mj: float | None
    """Energy of the meter's total for each frame of any source, idle power included; None without a meter or frames."""


class History:
    """Points of all sources. The output's thread adds messages, the server's calls `tick`."""

    def __init__(self, statistics: Statistics, power: PowerReader) -> None:
        """Read counters from statistics that receive the same messages, and the power of a meter."""
        self._statistics, self._power = statistics, power
        self._points: dict[str, deque[Point]] = {}
        self._intervals = Intervals()
        self._latencies_ms: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def add(self, messages: Sequence[Message]) -> None:
        """Keep the latencies of observations."""
        with self._lock:
            for message in messages:
                if isinstance(message, Observation):
                    latencies = self._latencies_ms.setdefault(message.source, deque(maxlen=MAX_LATENCIES))
                    latencies.append(message.result.latency_ms)

    def tick(self) -> dict[str, Point]:
        """End a second: return its point of each source."""
        with self._lock:
            latencies_ms, self._latencies_ms = self._latencies_ms, {}
        power_w = self._power.read_w()
        with self._statistics.sources() as sources:
            points = {name: self._point(name, each, latencies_ms.get(name, ())) for name, each in sources.items()}
        points = _with_power(points, power_w)
        for name, point in points.items():
            self._points.setdefault(name, deque(maxlen=SECONDS)).append(point)
        return points

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """Return all points by source, the oldest first."""
        return {name: [asdict(point) for point in points] for name, points in self._points.items()}

    def _point(self, name: str, source: SourceStatistics, latencies_ms: Sequence[float]) -> Point:
        counts = self._intervals.end(name, source)
        p50, p95 = np.percentile(latencies_ms, (50, 95)).round(3).tolist() if latencies_ms else (None, None)
        return Point(
            frames=counts.exits.total(),
            exits=tuple(counts.exits[index] for index in range(max(source.exits, default=-1) + 1)),
            dropped=counts.dropped,
            reconnects=counts.reconnects,
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            frame_age_s=None if source.captured_s is None else round(monotonic() - source.captured_s, 3),
            power_w=None,
            energy_mj=None,
        )


def _with_power(points: Mapping[str, Point], power_w: float | None) -> dict[str, Point]:
    """Return points with the power of their second, and its energy shared equally by all frames."""
    if power_w is None:
        return dict(points)
    frames = sum(point.frames for point in points.values())
    energy_mj = round(1e3 * power_w / frames, 3) if frames else None
    return {name: replace(each, power_w=round(power_w, 3), energy_mj=energy_mj) for name, each in points.items()}
