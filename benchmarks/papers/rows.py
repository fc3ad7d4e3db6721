"""Rows of results to choose from, and what is said of a few numbers, one for each seed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks.papers.grid import BACKBONE

Row = dict[str, Any]
Value = Callable[[Row], float]


class Rows:
    """Rows of one backbone, whose values pair up by seed."""

    def __init__(self, rows: Sequence[Row], backbone: str = BACKBONE) -> None:
        """Take the rows of one backbone."""
        self._rows = sorted((row for row in rows if row["backbone"] == backbone), key=lambda row: row["seed"])

    def values(self, value: str | Value, **wanted: Any) -> np.ndarray:
        """Return a field, or what a function makes of a row, for each row that has the wanted fields."""
        found = [row for row in self._rows if all(row[name] == one for name, one in wanted.items())]
        return np.array([float(row[value]) if isinstance(value, str) else value(row) for row in found])

    def have(self, dataset: str, *runs: tuple[str, float]) -> bool:
        """Return whether a dataset has rows of all these regimes and weights of attention guidance."""
        return all(len(self.values("seed", dataset=dataset, regime=regime, alpha=alpha)) for regime, alpha in runs)


def mean_over_exits(name: str) -> Value:
    """Return a function that takes the mean of a field that has a value for each exit."""
    return lambda row: float(np.mean(row[name]))


def percent(values: np.ndarray) -> str:
    """Return a mean, with its standard deviation over seeds where there are several."""
    return f"{values.mean():.2%}" + (f" ±{values.std(ddof=1) * 100:.2f}" if len(values) > 1 else "")


def spread(*differences: np.ndarray) -> float:
    """Return the largest standard deviation of paired differences over seeds, 0 for a single seed."""
    return max(float(one.std(ddof=1)) if len(one) > 1 else 0.0 for one in differences)


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a mean by Student's t; unbounded for a single value."""
    if len(differences) < 2:
        return -float("inf"), float("inf")
    reach = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean() - reach), float(differences.mean() + reach)
