"""Thresholds that keep a promise: the largest saving whose risk is shown to be within a limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration.operating_points import describe, operating_points
from edge.bundle.manifest import Thresholds
from edge.decision import NEVER, Scores, decide
from edge.errors import ThresholdError
from edge.risk import HIGH_PROBABILITY_METHODS, MAX_SAMPLES, PROCEDURES, RISKS, Losses, min_samples

SHARED_GRID = 1 - np.geomspace(1e-7, 1, 300)
"""Thresholds for all exits alike, in the order of what they save; chosen before any sample was seen."""


@dataclass(frozen=True, slots=True)
class RiskGuarantee:
    """What is asked of thresholds on samples they were not fitted to."""

    risk: Literal["accuracy_gap", "disagreement"] = "accuracy_gap"
    """Share of answers lost against the last exit answering everything, or that are not its answers."""
    limit: float = 0.005
    method: Literal["betting", "hoeffding-bentkus", "expectation", "none"] = "betting"
    """How it is shown to be within the limit: see `calibration.risk`."""
    confidence_level: float = 0.95
    """Probability with which it is; only the first two methods have one."""
    shared: bool = False
    """Whether all exits have one threshold. Where each has its own, half of the samples choose the trade-offs and
    the other half judges them."""

    @property
    def delta(self) -> float:
        """Probability with which it may not be kept."""
        return 1 - self.confidence_level


def fit_thresholds(
    scores: Scores, truth: NDArray[np.int64], costs: Sequence[float], guarantee: RiskGuarantee, split: str
) -> Thresholds:
    """Return the thresholds with the largest saving for which the promise is kept.

    Args:
        scores: Every exit's confidence and label on the threshold-fitting split, recorded from what will run.
        truth: True labels, shape (samples,).
        costs: Of each segment, in multiply-accumulates or milliseconds.
        promise: What to keep.
        split: Fingerprint of the split, for the record.

    Raises:
        ThresholdError: the promise is none, the scores are of another network, or there are too few samples for it.
    """
    return fit_all_precisions({"": scores}, truth, costs, guarantee, split)[""]


def fit_all_precisions(
    scores: Mapping[str, Scores], truth: NDArray[np.int64], costs: Sequence[float], guarantee: RiskGuarantee, split: str
) -> dict[str, Thresholds]:
    """Return thresholds for each precision of a network: the largest saving for which all of them keep the promise.

    All follow the trade-offs of the first, with thresholds of their own that as many samples reach, so that a frame
    leaves at the same exit whichever precision runs. Each is judged by what it says itself.

    Args:
        scores: What each precision says of the threshold-fitting split.
        truth: As in `fit_thresholds`, and so are the others.
        costs: Of each segment.
        promise: What to keep.
        split: Fingerprint of the split.

    Raises:
        ThresholdError: the promise is none, the scores are of another network, or there are too few samples for it.
    """
    _check(guarantee)
    for one in scores.values():
        check_scores(one, truth, costs)
    level = guarantee.confidence_level if guarantee.method in HIGH_PROBABILITY_METHODS else None
    kept = (guarantee.risk, guarantee.limit, guarantee.method, level, len(truth), split)
    if len(costs) == 1:  # nothing to choose
        return {name: Thresholds((), *kept) for name in scores}
    choosing, judging = _shared_out(len(truth), guarantee)
    if not len(choosing):
        raise ThresholdError(_too_few(len(truth), guarantee))
    first = next(iter(scores.values()))
    path = _path(_part(first, choosing), truth[choosing], costs, guarantee)
    paths = {
        name: path
        if one is first or guarantee.shared
        else _match_quantiles(path, _part(first, choosing), _part(one, choosing))
        for name, one in scores.items()
    }
    certify = PROCEDURES[guarantee.method]
    losses = (_losses(_part(one, judging), truth[judging], paths[name], guarantee) for name, one in scores.items())
    certified = np.all([certify(lost, guarantee.limit, guarantee.delta) for lost in losses], axis=0)
    if not certified.any():
        raise ThresholdError(_too_few(len(truth), guarantee))
    points = {index: describe(first, truth, costs, path[index]) for index in np.flatnonzero(certified)}
    best = min(points, key=lambda index: (points[index].cost_ratio, -points[index].accuracy))
    return {name: Thresholds(tuple(followed[best].tolist()), *kept) for name, followed in paths.items()}


def _match_quantiles(path: list[NDArray[np.float32]], first: Scores, one: Scores) -> list[NDArray[np.float32]]:
    """Return thresholds that as many of one precision's samples reach as of the first's, along the first's path."""
    ranked = -np.sort(-np.nan_to_num(one.confidence, nan=-1.0), axis=1)
    followed = []
    for point in path:
        reached = (first.confidence[: len(point)] >= point[:, None]).sum(axis=1)
        followed.append(np.array([_between(ranked[k], count) for k, count in enumerate(reached)], dtype=np.float32))
    return followed


def _between(ranked: NDArray[np.float32], count: int) -> float:
    """Return a threshold that the first `count` of the ranked confidences reach, and no others."""
    if count == 0:
        return NEVER
    if count == len(ranked):
        return 0.0
    middle = (ranked[count - 1] + ranked[count]) / 2
    return float(middle if middle > ranked[count] else ranked[count - 1])  # neighbouring numbers have no middle


def check_scores(scores: Scores, truth: NDArray[np.int64], costs: Sequence[float]) -> None:
    """Refuse scores of another network or of other samples than the labels.

    Raises:
        ThresholdError: they are.
    """
    if scores.confidence.shape != (len(costs), len(truth)) or scores.label.shape != (len(costs), len(truth)):
        raise ThresholdError(
            f"the scores are of {scores.confidence.shape} exits and samples, but there are {len(costs)} exits and "
            f"{len(truth)} labels; record them again with this bundle"
        )
    if not len(truth):
        raise ThresholdError("there are no samples to fit thresholds to; record scores of labelled images first")


def _check(guarantee: RiskGuarantee) -> None:
    if not 0 <= guarantee.limit < 1 or (guarantee.limit == 0 and guarantee.method != "none"):
        raise ThresholdError(
            f"the risk to allow is {guarantee.limit}; give a fraction above 0 and below 1, such as 0.005"
        )
    if not 0.5 <= guarantee.confidence_level < 1:
        raise ThresholdError(
            f"the confidence level is {guarantee.confidence_level}; give one from 0.5 up to 1, such as 0.95"
        )


def _shared_out(samples: int, guarantee: RiskGuarantee) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the samples that choose the path and those that judge it; in an order that says nothing."""
    everyone = np.random.default_rng(0).permutation(samples)
    if guarantee.shared or guarantee.method == "none":
        return everyone, everyone
    return everyone[: samples // 2], everyone[samples // 2 :]


def _part(scores: Scores, samples: NDArray[np.intp]) -> Scores:
    return Scores(scores.confidence[:, samples], scores.label[:, samples])


def _path(
    scores: Scores, truth: NDArray[np.int64], costs: Sequence[float], guarantee: RiskGuarantee
) -> list[NDArray[np.float32]]:
    """Return thresholds from exits never taken to the first always taken."""
    if guarantee.shared:
        return [np.full(len(costs) - 1, value, dtype=np.float32) for value in (NEVER, *SHARED_GRID)]
    # Trading agreement with the last exit, not accuracy, keeps early points of the path harmless: an answer early exits
    # seem to save here may be luck.
    is_naive = guarantee.method == "none" and guarantee.risk == "accuracy_gap"
    wanted = truth if is_naive else scores.label[-1].astype(np.int64)
    return [np.asarray(point.thresholds, dtype=np.float32) for point in operating_points(scores, wanted, costs)]


def _losses(
    scores: Scores, truth: NDArray[np.int64], path: Sequence[NDArray[np.float32]], guarantee: RiskGuarantee
) -> Losses:
    """Return what every point of the path loses of every sample, shape (points, samples)."""
    return np.stack([RISKS[guarantee.risk](scores, decide(scores, point), truth) for point in path])


def _too_few(samples: int, guarantee: RiskGuarantee) -> str:
    judging = min_samples(PROCEDURES[guarantee.method], guarantee.limit, guarantee.delta)
    takes = f"more than {MAX_SAMPLES}" if judging is None else str(judging if guarantee.shared else 2 * judging - 1)
    return (
        f"{samples} samples are too few to promise a risk of at most {guarantee.limit:g} by {guarantee.method!r}: it takes "
        f"{takes}; bring more images, allow a higher risk (--limit), or promise less (--method expectation or none)"
    )
