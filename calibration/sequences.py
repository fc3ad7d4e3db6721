"""Fixed sequences of thresholds to certify, from exits never taken to the first exit always taken."""

import numpy as np
from numpy.typing import NDArray

from edge.decision import NEVER, Scores

SHARED_GRID = 1 - np.geomspace(1e-7, 1, 300)
"""Thresholds shared by all exits, from the smallest saving to the largest; they do not depend on samples."""
DISAGREEMENT_ODDS = np.geomspace(1e-5, 1e2, 300)
"""Odds of disagreeing with the last exit at the threshold, shared by all exits."""
MAX_LOGIT = 16.0
"""Logits of confidences are limited to this value: float32 has few values closer to 1."""
PRIOR_PRECISION = 20.0
"""Precision of the normal prior on each coefficient of a logistic regression. It keeps exits alike, as with a shared
threshold, until samples show that they differ: by about `1 / sqrt(20)`, so a few hundred samples outweigh it."""
NEWTON_STEPS, MAX_STEP = 30, 2.0
MAX_SLOPE = -0.1
"""Disagreement falls with confidence at least by this slope."""

FixedSequence = NDArray[np.float32]
"""A fixed sequence of thresholds, shape (candidates, exits - 1), from exits never taken to the first always taken."""


def shared_sequence(early_exits: int) -> FixedSequence:
    """Return candidates with one threshold for all exits."""
    grid = np.array([NEVER, *SHARED_GRID], dtype=np.float32)
    return np.repeat(grid[:, None], early_exits, axis=1)


def matched_sequence(scores: Scores) -> FixedSequence:
    """Return candidates whose thresholds have equal odds of disagreement with the last exit.

    The odds at each confidence come from a logistic regression per exit. Its two coefficients are shrunk towards those
    of all exits together, with which all thresholds are equal: few samples tune a sequence, and without evidence of a
    difference between exits it is that of a shared threshold.

    Args:
        scores: Scores of the tuning split.
    """
    *early, last = scores.label
    logits = _logit(scores.confidence[:-1])
    disagrees = np.array([label != last for label in early], dtype=np.float64)
    common = _logistic_regression(logits.ravel(), disagrees.ravel(), np.array([0.0, -1.0]))
    sequence = np.empty((len(DISAGREEMENT_ODDS) + 2, len(early)), dtype=np.float32)
    sequence[0], sequence[-1] = NEVER, 0.0
    for index, each in enumerate(zip(logits, disagrees, strict=True)):
        intercept, slope = _logistic_regression(*each, common)
        logit = (np.log(DISAGREEMENT_ODDS) - intercept) / min(slope, MAX_SLOPE)
        sequence[1:-1, index] = 1 / (1 + np.exp(-np.clip(logit, -MAX_LOGIT, MAX_LOGIT)))
    return sequence


def _logit(confidence: NDArray[np.float32]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):  # confidences of 0 and 1
        logit: NDArray[np.float64] = np.log(confidence) - np.log1p(-confidence.astype(np.float64))
    return logit.clip(-MAX_LOGIT, MAX_LOGIT)


def _logistic_regression(
    x: NDArray[np.float64], is_positive: NDArray[np.float64], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return intercept and slope of the log odds, with a normal prior, by Newton's method."""
    design = np.stack([np.ones_like(x), x], axis=1)
    coefficients = prior
    for _ in range(NEWTON_STEPS):
        probability = (1 + np.tanh(design @ coefficients / 2)) / 2  # the logistic function, without overflow
        gradient = design.T @ (probability - is_positive) + PRIOR_PRECISION * (coefficients - prior)
        hessian = (design.T * (probability * (1 - probability))) @ design + PRIOR_PRECISION * np.eye(2)
        coefficients = coefficients - np.clip(np.linalg.solve(hessian, gradient), -MAX_STEP, MAX_STEP)
    return coefficients
