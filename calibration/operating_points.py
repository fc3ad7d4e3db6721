"""What thresholds do to recorded scores, and which ones trade accuracy against cost best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.decision import NEVER, Scores, decide
from edge.errors import ThresholdError

COST_WEIGHTS = np.concatenate([np.zeros(1), np.geomspace(1e-4, 10, 120)])
"""Accuracy given for all of the network's computation that are tried; each gives one operating point."""

ROUNDING = 1e-12
STEPS = 200
"""From one trade-off to the next, where neither is at the budget."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a set of thresholds does to recorded scores."""

    thresholds: tuple[float, ...]
    accuracy: float
    accuracy_gap: float
    """Accuracy of the last exit answering everything, minus `accuracy`."""
    cost_ratio: float
    """Mean cost, as a share of what the last exit costs."""
    exit_shares: tuple[float, ...]


def within_budget(
    scores: Scores, truth: NDArray[np.int64], costs: Sequence[float], cost_ratio: float
) -> OperatingPoint:
    """Return the most accurate point found whose mean cost is at most this share of the last exit's.

    Between the two neighbouring trade-offs that lie below and above the budget, thresholds are moved in small steps
    from one to the other.

    Raises:
        ThresholdError: the first exit alone costs more.
    """
    points = sorted(operating_points(scores, truth, costs), key=lambda point: point.cost_ratio)
    limit = cost_ratio + ROUNDING
    cheapest = describe(scores, truth, costs, np.zeros(len(costs) - 1, dtype=np.float32))
    if cheapest.cost_ratio > limit:
        raise ThresholdError(
            f"a budget of {cost_ratio:.0%} of the whole network's cost is too small: "
            f"its first exit alone takes {cheapest.cost_ratio:.0%}"
        )
    tried = [cheapest, *(point for point in points if point.cost_ratio <= limit)]
    for dearer in [point for point in points if point.cost_ratio > limit][:1]:
        near, far = (np.minimum(point.thresholds, 1.0) for point in (tried[-1], dearer))
        for step in np.linspace(0, 1, STEPS)[1:]:
            tried.append(describe(scores, truth, costs, (near + step * (far - near)).astype(np.float32)))
    affordable = [point for point in tried if point.cost_ratio <= limit]
    return max(affordable, key=lambda point: (point.accuracy, -point.cost_ratio))


def operating_points(scores: Scores, truth: NDArray[np.int64], costs: Sequence[float]) -> list[OperatingPoint]:
    """Return the best trade-offs between accuracy and computation, from exits never taken to exits always taken.

    For each price of computation the thresholds are chosen that maximise `accuracy - price * cost`, one exit
    after the other until none changes (each step is exact, all of them together a local optimum).
    """
    cost = np.cumsum(costs) / np.sum(costs)
    correct = (scores.label == truth).astype(np.float64)
    never = np.full(len(costs) - 1, NEVER, dtype=np.float32)
    points = {tuple(never.tolist()): describe(scores, truth, costs, never)}
    thresholds = never
    for price in COST_WEIGHTS:
        thresholds = _best_thresholds(scores.confidence, correct - price * cost[:, None], thresholds)
        points.setdefault(tuple(thresholds.tolist()), describe(scores, truth, costs, thresholds))
    return list(points.values())


def describe(
    scores: Scores, truth: NDArray[np.int64], costs: Sequence[float], thresholds: NDArray[np.float32]
) -> OperatingPoint:
    """Return what thresholds do to recorded scores."""
    decisions = decide(scores, thresholds)
    right, right_whole = decisions.label == truth, scores.label[-1] == truth
    cost = np.cumsum(costs) / np.sum(costs)
    shares = np.bincount(decisions.exit_index, minlength=len(costs)) / len(truth)
    return OperatingPoint(
        thresholds=tuple(thresholds.tolist()),
        accuracy=float(right.mean()),
        accuracy_gap=float(right_whole.mean() - right.mean()),
        cost_ratio=float(cost[decisions.exit_index].mean()),
        exit_shares=tuple(shares.tolist()),
    )


def _best_thresholds(
    confidence: NDArray[np.float32], utility: NDArray[np.float64], start: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Maximise the mean utility, shape (exits, samples), of where samples exit; coordinate ascent from `start`."""
    thresholds = start.copy()
    for _ in range(20):
        before = thresholds.copy()
        for index in reversed(range(len(thresholds))):
            reaches = ~(confidence[:index] >= thresholds[:index, None]).any(axis=0)
            later = utility[-1].copy()
            for deeper in reversed(range(index + 1, len(thresholds))):
                later = np.where(confidence[deeper] >= thresholds[deeper], utility[deeper], later)
            thresholds[index] = _best_threshold(confidence[index][reaches], (utility[index] - later)[reaches])
        if (thresholds == before).all():
            break
    return thresholds


def _best_threshold(confidence: NDArray[np.float32], gain: NDArray[np.float64]) -> float:
    """Return the threshold above which the sum of gains is largest; it lies midway between two confidences."""
    number = ~np.isnan(confidence)
    order = np.argsort(-confidence[number], kind="stable")
    ranked, total = confidence[number][order], np.cumsum(gain[number][order])
    may_cut = np.append(ranked[:-1] != ranked[1:], True) if len(ranked) else np.zeros(0, dtype=bool)
    total = np.where(may_cut, total, -np.inf)
    if not len(ranked) or total.max() <= 0:
        return NEVER
    last = int(total.argmax())
    if last == len(ranked) - 1:
        return 0.0
    middle = (ranked[last] + ranked[last + 1]) / 2
    return float(middle if middle > ranked[last + 1] else ranked[last])  # neighbouring numbers have no middle
