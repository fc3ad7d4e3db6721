"""Selection of result rows, and statistics over seeds."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks.papers.grid import BACKBONE

Row = dict[str, Any]
RowValue = Callable[[Row], float]


class Rows:
    """Rows of one backbone, ordered by seed, so that values of two selections are paired."""

    def __init__(self, rows: Sequence[Row], backbone: str = BACKBONE) -> None:
        """Select the rows of one backbone."""
        self._rows = sorted((row for row in rows if row["backbone"] == backbone), key=lambda row: row["seed"])

    def values(self, value: str | RowValue, **fields: Any) -> np.ndarray:
        """Return a field's value, or a function's, for each row that has these fields."""
        selected = [row for row in self._rows if all(row[name] == wanted for name, wanted in fields.items())]
        return np.array([float(row[value]) if isinstance(value, str) else value(row) for row in selected])

    def have(self, dataset: str, *runs: tuple[str, float]) -> bool:
        """Check that a dataset has rows of all these regimes and weights of attention guidance."""
        return all(len(self.values("seed", dataset=dataset, regime=regime, alpha=alpha)) for regime, alpha in runs)


def mean_over_exits(name: str) -> RowValue:
    """Return a function that averages a field over the exits."""
    return lambda row: float(np.mean(row[name]))


def percent(values: np.ndarray) -> str:
    """Return a mean, with its standard deviation over seeds if there are several."""
    return f"{values.mean():.2%}" + (f" ±{values.std(ddof=1) * 100:.2f}" if len(values) > 1 else "")


def largest_deviation(*differences: np.ndarray) -> float:
    """Return the largest standard deviation of paired differences over seeds, 0 for a single seed."""
    return max(float(values.std(ddof=1)) if len(values) > 1 else 0.0 for values in differences)


def confidence_interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the 95 % confidence interval of a mean by Student's t; unbounded for a single value."""
    if len(differences) < 2:
        return -float("inf"), float("inf")
    margin = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean() - margin), float(differences.mean() + margin)
