"""Candidates: the certified thresholds that a device may choose from at run time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.operating_points import OperatingPoint, operating_point_of
from edge.bundle.manifest import Candidate
from edge.decision import Scores, decide
from edge.risk import clopper_pearson_bound, disagreement

MAX_CANDIDATES = 8


class Certificate(NamedTuple):
    """Evidence for thresholds from samples that they were not tuned on."""

    risk_bound: float
    samples: NDArray[np.intp]
    """Indices of the certification split."""
    delta: float
    """Probability with which the bound on the disagreement may be exceeded."""


def describe_candidate(
    scores: Scores,
    truth: NDArray[np.int64],
    macs: Sequence[float],
    thresholds: NDArray[np.float32],
    certificate: Certificate | None = None,
) -> Candidate:
    """Return thresholds with their mean cost, and with their bounds if they were certified.

    Args:
        scores: Every exit's confidence and label on the threshold-fitting split.
        truth: True labels, shape (samples,).
        macs: Multiply-accumulates of each segment.
        thresholds: One for each exit but the last.
        certificate: Evidence for bounds; None if the thresholds were fitted to all samples.
    """
    point = operating_point_of(scores, truth, macs, thresholds)
    if certificate is None:
        return Candidate(point.thresholds, None, None, point.cost_ratio)
    certified = scores.select(certificate.samples)
    differing = disagreement(certified, decide(certified, thresholds), truth[certificate.samples])
    bound = clopper_pearson_bound(int(differing.sum()), len(differing), certificate.delta)
    return Candidate(point.thresholds, certificate.risk_bound, bound, point.cost_ratio)


def spread_over_costs(points: Sequence[OperatingPoint], count: int = MAX_CANDIDATES) -> list[int]:
    """Return the indices of points at evenly spaced costs, from the costliest to the cheapest.

    Of points with equal costs, the most accurate is taken.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index].cost_ratio, -points[index].accuracy))
    costs = np.array([points[index].cost_ratio for index in order])
    targets = np.linspace(costs[-1], costs[0], count)
    nearest = np.abs(costs[:, None] - targets).argmin(axis=0)
    return [order[index] for index in dict.fromkeys(nearest.tolist())]
