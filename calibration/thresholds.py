"""Thresholds fitted to recorded scores: the largest saving within a bound on the accuracy lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edge.decision import NEVER, Scores, decide
from edge.errors import ThresholdError
from edge.manifest import Thresholds

PRICES = np.concatenate([np.zeros(1), np.geomspace(1e-4, 10, 120)])
"""Accuracy given for all of the network's computation that are tried; each gives one operating point."""

ROUNDING = 1e-12
STEPS = 200
"""From one trade-off to the next, where neither is at the budget."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a set of thresholds does to recorded scores."""

    thresholds: tuple[float, ...]
    accuracy: float
    accuracy_drop: float
    """Accuracy of the last exit answering everything, minus `accuracy`."""
    drop_error: float
    """Standard error of that."""
    macs_ratio: float
    """Mean multiply-accumulates, as a share of those of the last exit."""
    exit_shares: tuple[float, ...]


def fit_thresholds(
    scores: Scores,
    truth: NDArray[np.int64],
    macs: Sequence[int],
    *,
    max_drop: float,
    confidence_level: float | None = None,
    split: str,
) -> Thresholds:
    """Return the thresholds with the largest saving whose accuracy drop on these samples is at most `max_drop`.

    With a confidence level, it is the upper bound of the drop's normal confidence interval that stays within. Samples
    are paired, so that what both answer alike adds nothing to its width; and the doubt is shared out among all the
    trade-offs to choose from, since the one that looks cheapest may only have been lucky on these samples.

    Args:
        scores: Every exit's confidence and label on the threshold-fitting split, recorded from what will run.
        truth: True labels, shape (samples,).
        macs: Multiply-accumulates of each segment.
        max_drop: Largest accuracy lost against the last exit answering everything, as a fraction.
        confidence_level: Probability with which the drop on other samples is to stay within, such as 0.99.
        split: Fingerprint of the split, for the record.

    Raises:
        ThresholdError: `max_drop` or the confidence level is no fraction, there are no samples, or the scores are of
            another network.
    """
    if not 0 <= max_drop < 1:
        raise ThresholdError(f"the accuracy drop to allow is {max_drop}; give a fraction from 0 up to 1, such as 0.005")
    if confidence_level is not None and not 0.5 <= confidence_level < 1:
        raise ThresholdError(f"the confidence level is {confidence_level}; give one from 0.5 up to 1, such as 0.99")
    if scores.confidence.shape != (len(macs), len(truth)) or scores.label.shape != (len(macs), len(truth)):
        raise ThresholdError(
            f"the scores are of {scores.confidence.shape} exits and samples, but there are {len(macs)} exits and "
            f"{len(truth)} labels; record them again with this bundle"
        )
    points = operating_points(scores, truth, macs)
    reach = NormalDist().inv_cdf(1 - (1 - confidence_level) / len(points)) if confidence_level else 0.0
    within = [point for point in points if point.accuracy_drop + reach * point.drop_error <= max_drop + ROUNDING]
    best = min(within, key=lambda point: (point.macs_ratio, -point.accuracy))
    return Thresholds(best.thresholds, "accuracy_drop", max_drop, confidence_level, len(truth), split)


def within_budget(scores: Scores, truth: NDArray[np.int64], macs: Sequence[int], macs_ratio: float) -> OperatingPoint:
    """Return the most accurate point found whose mean multiply-accumulates are at most this share of the last exit's.

    Between the two neighbouring trade-offs that lie below and above the budget, thresholds are moved in small steps
    from one to the other.

    Raises:
        ThresholdError: the first exit alone costs more, or there are no samples.
    """
    points = sorted(operating_points(scores, truth, macs), key=lambda point: point.macs_ratio)
    limit = macs_ratio + ROUNDING
    cheapest = describe(scores, truth, macs, np.zeros(len(macs) - 1, dtype=np.float32))
    if cheapest.macs_ratio > limit:
        raise ThresholdError(
            f"a budget of {macs_ratio:.0%} of the network's computation is too small: "
            f"its first exit alone takes {cheapest.macs_ratio:.0%}"
        )
    tried = [cheapest, *(point for point in points if point.macs_ratio <= limit)]
    for dearer in [point for point in points if point.macs_ratio > limit][:1]:
        near, far = (np.minimum(point.thresholds, 1.0) for point in (tried[-1], dearer))
        for step in np.linspace(0, 1, STEPS)[1:]:
            tried.append(describe(scores, truth, macs, (near + step * (far - near)).astype(np.float32)))
    affordable = [point for point in tried if point.macs_ratio <= limit]
    return max(affordable, key=lambda point: (point.accuracy, -point.macs_ratio))


def operating_points(scores: Scores, truth: NDArray[np.int64], macs: Sequence[int]) -> list[OperatingPoint]:
    """Return the best trade-offs between accuracy and computation, from exits never taken to exits always taken.

    For each price of computation the thresholds are chosen that maximise `accuracy - price * cost`, one exit
    after the other until none changes (each step is exact, all of them together a local optimum).

    Raises:
        ThresholdError: there are no samples.
    """
    if not len(truth):
        raise ThresholdError("there are no samples to fit thresholds to; record scores of labelled images first")
    cost = np.cumsum(macs) / np.sum(macs)
    correct = (scores.label == truth).astype(np.float64)
    never = np.full(len(macs) - 1, NEVER, dtype=np.float32)
    points = {tuple(never.tolist()): describe(scores, truth, macs, never)}
    thresholds = never
    for price in PRICES:
        thresholds = _best_thresholds(scores.confidence, correct - price * cost[:, None], thresholds)
        points.setdefault(tuple(thresholds.tolist()), describe(scores, truth, macs, thresholds))
    return list(points.values())


def describe(
    scores: Scores, truth: NDArray[np.int64], macs: Sequence[int], thresholds: NDArray[np.float32]
) -> OperatingPoint:
    """Return what thresholds do to recorded scores."""
    decisions = decide(scores, thresholds)
    right, right_whole = decisions.label == truth, scores.label[-1] == truth
    lost = right_whole.astype(np.float64) - right
    cost = np.cumsum(macs) / np.sum(macs)
    shares = np.bincount(decisions.exit_index, minlength=len(macs)) / len(truth)
    return OperatingPoint(
        thresholds=tuple(thresholds.tolist()),
        accuracy=float(right.mean()),
        accuracy_drop=float(lost.mean()),
        drop_error=float(lost.std() / np.sqrt(len(lost))),
        macs_ratio=float(cost[decisions.exit_index].mean()),
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
