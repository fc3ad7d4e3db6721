"""Operating points: accuracy and cost of thresholds on recorded scores, and the best trade-offs between them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.decision import NEVER, Scores, decide
from edge.errors import ThresholdError

COST_WEIGHTS = np.concatenate([np.zeros(1), np.geomspace(1e-4, 10, 120)])
"""Weights of the cost ratio against accuracy; each gives one operating point."""
INTERPOLATION_STEPS = 200
MAX_ASCENT_ROUNDS = 20
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Thresholds, with their accuracy and cost on recorded scores."""

    thresholds: tuple[float, ...]
    accuracy: float
    accuracy_gap: float
    """Accuracy of the last exit alone, minus `accuracy`."""
    cost_ratio: float
    """Mean cost, as a share of the last exit's cost."""
    exit_shares: tuple[float, ...]


def within_budget(
    scores: Scores, truth: NDArray[np.int64], costs: Sequence[float], cost_ratio: float
) -> OperatingPoint:
    """Return the most accurate candidate within the budget.

    The candidates are the best trade-offs within the budget, and steps from the costliest of them towards the first
    trade-off beyond the budget.

    Raises:
        ThresholdError: the first exit alone exceeds the budget.
    """
    limit = cost_ratio + ROUNDING
    cheapest = operating_point_of(scores, truth, costs, np.zeros(len(costs) - 1, dtype=np.float32))
    if cheapest.cost_ratio > limit:
        raise ThresholdError(
            f"a budget of {cost_ratio:.0%} of the whole network's cost is too small: "
            f"its first exit alone takes {cheapest.cost_ratio:.0%}; raise the budget"
        )
    points = sorted(operating_points(scores, truth, costs), key=lambda point: point.cost_ratio)
    candidates = [cheapest, *(point for point in points if point.cost_ratio <= limit)]
    beyond = next((point for point in points if point.cost_ratio > limit), None)
    if beyond is not None:
        steps = _interpolate(candidates[-1].thresholds, beyond.thresholds)
        candidates += [operating_point_of(scores, truth, costs, thresholds) for thresholds in steps]
    affordable = [point for point in candidates if point.cost_ratio <= limit]
    return max(affordable, key=lambda point: (point.accuracy, -point.cost_ratio))


def operating_points(scores: Scores, truth: NDArray[np.int64], costs: Sequence[float]) -> list[OperatingPoint]:
    """Return the best trade-offs between accuracy and cost, from exits never taken to the first exit always taken.

    For each weight, coordinate ascent over the exits maximises `accuracy - weight * cost_ratio`: each step is exact,
    the result is a local optimum.
    """
    cost = np.cumsum(costs) / np.sum(costs)
    correct = (scores.label == truth).astype(np.float64)
    never = np.full(len(costs) - 1, NEVER, dtype=np.float32)
    points = {tuple(never.tolist()): operating_point_of(scores, truth, costs, never)}
    thresholds = never
    for weight in COST_WEIGHTS:
        thresholds = _best_thresholds(scores.confidence, correct - weight * cost[:, None], thresholds)
        points.setdefault(tuple(thresholds.tolist()), operating_point_of(scores, truth, costs, thresholds))
    return list(points.values())


def operating_point_of(
    scores: Scores, truth: NDArray[np.int64], costs: Sequence[float], thresholds: NDArray[np.float32]
) -> OperatingPoint:
    """Return the operating point of thresholds."""
    decisions = decide(scores, thresholds)
    correct, last_correct = decisions.label == truth, scores.label[-1] == truth
    cost = np.cumsum(costs) / np.sum(costs)
    shares = np.bincount(decisions.exit_index, minlength=len(costs)) / len(truth)
    return OperatingPoint(
        thresholds=tuple(thresholds.tolist()),
        accuracy=float(correct.mean()),
        accuracy_gap=float(last_correct.mean() - correct.mean()),
        cost_ratio=float(cost[decisions.exit_index].mean()),
        exit_shares=tuple(shares.tolist()),
    )


def threshold_for_count(ranked: NDArray[np.float32], count: int) -> float:
    """Return a threshold that the first `count` confidences and those tied with them reach, and no others.

    Args:
        ranked: Confidences in descending order.
        count: Number of confidences to reach it.
    """
    if count == 0:
        return NEVER
    if count == len(ranked):
        return 0.0
    last, following = ranked[count - 1], ranked[count]
    middle = (last + following) / 2
    return float(middle if middle > following else last)  # adjacent float32 values have no value between them


def _interpolate(start: Sequence[float], end: Sequence[float]) -> Iterator[NDArray[np.float32]]:
    """Yield thresholds in small steps from one set to another; a threshold above 1 counts as 1."""
    first, last = np.minimum(start, 1.0), np.minimum(end, 1.0)
    for step in np.linspace(0, 1, INTERPOLATION_STEPS)[1:]:
        yield (first + step * (last - first)).astype(np.float32)


def _best_thresholds(
    confidence: NDArray[np.float32], utility: NDArray[np.float64], start: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Maximise the mean utility of the exits taken, by coordinate ascent from `start`.

    Args:
        confidence: Shape (exits, samples).
        utility: Utility of taking each exit, shape (exits, samples).
        start: Thresholds to start from.
    """
    thresholds = start.copy()
    for _ in range(MAX_ASCENT_ROUNDS):
        before = thresholds.copy()
        for index in reversed(range(len(thresholds))):
            reaches = ~(confidence[:index] >= thresholds[:index, None]).any(axis=0)
            utility_after = utility[-1].copy()
            for deeper in reversed(range(index + 1, len(thresholds))):
                utility_after = np.where(confidence[deeper] >= thresholds[deeper], utility[deeper], utility_after)
            gain = utility[index] - utility_after
            thresholds[index] = _best_threshold(confidence[index][reaches], gain[reaches])
        if (thresholds == before).all():
            break
    return thresholds


def _best_threshold(confidence: NDArray[np.float32], gain: NDArray[np.float64]) -> float:
    """Return the threshold that maximises the sum of gains of the samples that reach it."""
    order = np.argsort(-confidence, kind="stable")
    ranked, total = confidence[order], np.cumsum(gain[order])
    separable = np.append(ranked[:-1] != ranked[1:], True) if len(ranked) else np.zeros(0, dtype=bool)
    total = np.where(separable, total, -np.inf)
    if not len(ranked) or total.max() <= 0:
        return NEVER
    return threshold_for_count(ranked, int(total.argmax()) + 1)
