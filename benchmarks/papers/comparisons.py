"""Paired comparisons of two methods on the same test images and seeds.

A difference of mean accuracies has two sources of chance: which images the test split holds, and which seeds the
networks were trained with. Intervals resample the images and draw the mean over seeds from Student's distribution; the
test of several budgets is corrected by Holm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 20_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of the test accuracies of a method and its baseline at one budget, as a share of 1."""

    task: str
    method: str
    baseline: str
    budget: float
    macs_ratio: tuple[float, float]
    """Multiply-accumulates of both on the test split, as shares of the whole network's."""
    by_seed: tuple[float, ...]
    """Difference of each seed."""
    by_image: tuple[int, ...]
    """Number of images by the sum of their differences over the seeds, from -seeds to +seeds."""

    @property
    def difference(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.by_seed))

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the difference."""
        low, high = np.quantile(self._resampled(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def p_value(self) -> float:
        """Return the two-sided p-value against no difference, at least `2 / (RESAMPLES + 1)`."""
        draws = self._resampled()
        tail = min((draws <= 0).sum(), (draws >= 0).sum())
        return min(1.0, 2 * float(tail + 1) / (RESAMPLES + 1))

    def _resampled(self) -> NDArray[np.float64]:
        """Return the difference with other images and other seeds.

        The mean over seeds follows Student's distribution: few seeds resampled vary too little.
        """
        generator, seeds = np.random.default_rng(0), len(self.by_seed)
        counts = np.array(self.by_image)
        sums = np.arange(-seeds, seeds + 1)
        images = generator.multinomial(counts.sum(), counts / counts.sum(), RESAMPLES) @ sums / (counts.sum() * seeds)
        if seeds == 1:
            return np.asarray(images)
        error = np.std(self.by_seed, ddof=1) / np.sqrt(seeds)
        return np.asarray(images + generator.standard_t(seeds - 1, RESAMPLES) * error)


def compare(
    ours: Sequence[NDArray[np.bool_]], baseline: Sequence[NDArray[np.bool_]]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return `by_seed` and `by_image` of a comparison.

    Args:
        ours: Correct predictions of each seed's network, shape (samples,); all on the same images.
        baseline: The same of the baseline.
    """
    differences = np.stack(ours).astype(int) - np.stack(baseline).astype(int)
    seeds = len(differences)
    histogram = np.bincount(differences.sum(axis=0) + seeds, minlength=2 * seeds + 1)
    return tuple(differences.mean(axis=1).tolist()), tuple(histogram.tolist())


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for testing all of them (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    result = np.empty(len(order))
    result[order] = corrected
    return [float(value) for value in result]
