"""Latency statistics: percentiles, interquartile range and spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency over a number of frames, in milliseconds."""

    mean: float
    p50: float
    p95: float
    p99: float
    spread: float
    """Half the distance between the lowest and highest p50 of five consecutive parts, relative to p50."""
    iqr: float
    """Interquartile range."""
    frames: int


def latency_from_ms(times_ms: ArrayLike) -> Latency:
    """Return the statistics of the times of single frames, given in the order of measurement."""
    times = np.array(times_ms, dtype=np.float64)
    p25, p50, p75, p95, p99 = map(float, np.percentile(times, [25, 50, 75, 95, 99]))
    parts = [float(np.median(part)) for part in np.array_split(times, 5) if len(part)]
    spread = (max(parts) - min(parts)) / 2 / p50 if p50 else 0.0
    return Latency(float(times.mean()), p50, p95, p99, spread, p75 - p25, len(times))


LATENCY_COLUMNS = ("mean ms", "p50", "IQR", "p95", "p99", "spread")


def latency_cells(latency: Latency) -> Sequence[str]:
    """Return table cells for `LATENCY_COLUMNS`."""
    times = (latency.mean, latency.p50, latency.iqr, latency.p95, latency.p99)
    return (*(f"{value:.3f}" for value in times), f"±{latency.spread:.0%}")
