"""Robust statistics of repeated measurements: quartiles, and bootstrap intervals of a median."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Median and quartiles of a sample, in its unit."""

    median: float
    lower: float
    upper: float

    @property
    def iqr(self) -> float:
        """Interquartile range."""
        return self.upper - self.lower


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its bootstrap interval, of 95 % nominal confidence."""

    value: float
    low: float
    high: float


def quartiles(sample: ArrayLike) -> Quartiles:
    """Return the quartiles of a sample."""
    lower, median, upper = np.percentile(np.asarray(sample), [25, 50, 75])
    return Quartiles(float(median), float(lower), float(upper))


def median_estimate(launches: ArrayLike, seed: int = 0) -> Estimate:
    """Return the median of values from several launches of a program, with its bootstrap interval.

    Values of one launch share effects such as the layout of its memory, which its own repetitions do not reveal
    (Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013). The bootstrap therefore draws whole
    launches (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8), one less than there are:
    with few launches the interval would otherwise be too narrow (Hesterberg, What Teachers Should Know About the
    Bootstrap, The American Statistician, 2015).

    Args:
        launches: Values, shape (launches, rounds).
        seed: Seed of the draws.
    """
    values = np.asarray(launches, dtype=np.float64)
    count = len(values)
    drawn = np.random.default_rng(seed).integers(0, count, (RESAMPLES, max(1, count - 1)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.median(values[drawn], axis=(1, 2)), [tail, 100 - tail])
    return Estimate(float(np.median(values)), float(low), float(high))


def ratio_estimate(times: ArrayLike, reference_times: ArrayLike, seed: int = 0) -> Estimate:
    """Return the typical ratio of times that were measured in pairs, with its bootstrap interval.

    A pair is close in time, so that a drift of the machine's speed cancels in its ratio. Both have the shape (launches,
    rounds).
    """
    return median_estimate(np.divide(times, reference_times), seed)
