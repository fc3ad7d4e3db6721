"""Thresholds that spend a budget of computation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.operating_points import OperatingPoint, operating_point_of, operating_points
from edge.decision import NEVER, Scores

BISECTIONS = 20


def spend_budget(
    scores: Scores, truth: NDArray[np.int64], costs: Sequence[float], cost_ratio: float
) -> tuple[float, ...]:
    """Return thresholds whose mean cost on these samples is the budget, on the path of best trade-offs.

    Where the most accurate point of the path costs less, return that. Methods are compared at the same cost: near
    exit 0, a hundredth of the multiply-accumulates is worth half a point, more than most methods differ by.
    """
    path = _path(scores, truth, costs)
    below = [point for point in path if point.cost_ratio <= cost_ratio]
    above = path[len(below) :]
    if not above:
        return below[-1].thresholds
    low = np.minimum(below[-1].thresholds if below else np.zeros(len(costs) - 1), 1)
    high = np.minimum(above[0].thresholds, 1)
    spent, too_far = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (spent + too_far) / 2
        cost = operating_point_of(scores, truth, costs, _between(low, high, middle)).cost_ratio
        spent, too_far = (middle, too_far) if cost <= cost_ratio else (spent, middle)
    return tuple(_between(low, high, spent).tolist())


def _path(scores: Scores, truth: NDArray[np.int64], costs: Sequence[float]) -> list[OperatingPoint]:
    """Return the best trade-offs from the cheapest to the most accurate, without the one that never exits."""
    points = operating_points(scores, truth, costs)
    exiting = [point for point in points if min(point.thresholds) < NEVER] or points
    return sorted(exiting, key=lambda point: point.cost_ratio)


def _between(low: NDArray[np.floating], high: NDArray[np.floating], position: float) -> NDArray[np.float32]:
    return np.asarray(low + position * (high - low), dtype=np.float32)
