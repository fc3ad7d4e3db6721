"""The exit rule in NumPy: the reference implementation for calibration, engines and tests."""

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.errors import ThresholdError

log = logging.getLogger(__name__)

NEVER = 2.0
"""The largest threshold, above any confidence: the exit is never taken."""
MAX_PYTHON_CLASSES = 100
"""Classes up to which plain Python is faster than NumPy for a single sample."""

NONE, NONE_INDEX = "none", -1
"""Label and label index of a rejected prediction."""
NONE_CLASSES = ("none", "unknown")
"""Names of classes for objects that belong to none of the others; their predictions are rejected, too."""


class Scores(NamedTuple):
    """Confidence and label of every exit for every sample; both arrays have shape (exits, samples)."""

    confidence: NDArray[np.float32]
    label: NDArray[np.int32]

    def select(self, samples: NDArray[np.intp]) -> "Scores":
        """Return the scores of some samples, by their indices."""
        return Scores(self.confidence[:, samples], self.label[:, samples])


class Decisions(NamedTuple):
    """The exit that answered each sample, with its confidence and label; each array has shape (samples,)."""

    exit_index: NDArray[np.intp]
    confidence: NDArray[np.float32]
    label: NDArray[np.int32]


class Prediction(NamedTuple):
    """The classification of one frame."""

    label: str
    """Name of the class, or `none` if the prediction was rejected."""
    label_index: int
    """Index of the class, or -1 if the prediction was rejected."""
    probability: float
    """Calibrated probability of the label: the softmax maximum at the temperature of the exit that answered."""
    exit_index: int
    confidence: float
    """Uncalibrated softmax maximum, which the exit rule compares with the threshold; NaN where logits are NaN."""


class Predictions(NamedTuple):
    """The classification of many frames; each array has shape (samples,)."""

    label_index: NDArray[np.int32]
    probability: NDArray[np.float32]
    exit_index: NDArray[np.intp]
    confidence: NDArray[np.float32]


def allocate_predictions(samples: int) -> Predictions:
    """Allocate zeroed predictions for `samples` images."""
    return Predictions(
        np.zeros(samples, dtype=np.int32),
        np.zeros(samples, dtype=np.float32),
        np.zeros(samples, dtype=np.intp),
        np.zeros(samples, dtype=np.float32),
    )


def scores_from_logits(logits: NDArray[np.float32]) -> Scores:
    """Return each exit's softmax maximum and its class.

    Equal logits resolve to the first class. A NaN among a sample's logits makes its confidence NaN.

    Args:
        logits: Shape (exits, samples, classes).
    """
    with np.errstate(over="ignore", invalid="ignore"):  # infinite logits become NaN, as in an engine
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probability = shifted / shifted.sum(axis=-1, keepdims=True)
    return Scores(probability.max(axis=-1), logits.argmax(axis=-1).astype(np.int32))


def softmax_maximum(logits: NDArray[np.float32], inverse_temperature: float = 1.0) -> float:
    """Return the maximum of `softmax(logits * inverse_temperature)` of one sample, which is 1 over its denominator.

    For few classes, plain Python takes about 1 us; NumPy takes 13 to 30 us after a segment, when its code is no longer
    in the processor's cache.

    Args:
        logits: Shape (classes,).
        inverse_temperature: Above 0.
    """
    if logits.size > MAX_PYTHON_CLASSES:
        wide = logits.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # infinite logits become NaN
            return float(1.0 / np.exp((wide - wide.max()) * inverse_temperature).sum())
    values = logits.tolist()
    largest = max(values)
    return 1.0 / sum([math.exp((value - largest) * inverse_temperature) for value in values])


def validate_thresholds(values: ArrayLike, exits: int) -> NDArray[np.float32]:
    """Check thresholds and return them as float32, shape (exits - 1,).

    Raises:
        ThresholdError: a threshold is NaN, infinite or negative, or their count is wrong.
    """
    try:
        with np.errstate(over="ignore"):  # overflow becomes infinity, which is refused below
            thresholds = np.array(values, dtype=np.float32).reshape(-1)
    except (TypeError, ValueError) as error:
        raise ThresholdError(f"thresholds are {values!r}; give {exits - 1} numbers") from error
    if len(thresholds) != exits - 1:
        raise ThresholdError(
            f"got {len(thresholds)} thresholds for {exits} exits; give {exits - 1}, one for each exit but the last"
        )
    for index, value in enumerate(thresholds.tolist()):
        if not (math.isfinite(value) and value >= 0):
            raise ThresholdError(
                f"threshold {index} is {value:g}; give a confidence from 0 to 1, such as 0.9 for 90 %, or {NEVER:g} to "
                "never exit"
            )
        if value > NEVER:
            log.warning(
                "threshold %d is %g, so this exit never answers; for %g %%, give %g", index, value, value, value / 100
            )
    return thresholds


def decide(scores: Scores, thresholds: NDArray[np.float32]) -> Decisions:
    """Take for each sample the first exit whose confidence reaches its threshold; the last exit always answers.

    `exit_k = confidence_k >= threshold_k`, in float32. NaN reaches no threshold.
    """
    exits, samples = scores.confidence.shape
    taken = np.ones((exits, samples), dtype=bool)
    taken[:-1] = scores.confidence[:-1] >= thresholds[:, None]
    exit_index = taken.argmax(axis=0)
    sample = np.arange(samples)
    return Decisions(exit_index, scores.confidence[exit_index, sample], scores.label[exit_index, sample])


def accepted(
    decisions: Decisions, last_exit: int, reject_thresholds: NDArray[np.float32], labels: Sequence[str]
) -> NDArray[np.bool_]:
    """Return True for each prediction that is accepted, shape (reject thresholds, samples).

    An early exit's prediction is accepted, and the last exit's if its confidence reaches the reject threshold; a
    prediction of one of `NONE_CLASSES` is not.

    Args:
        decisions: The exit that answered each sample.
        last_exit: Index of the last exit.
        reject_thresholds: Shape (reject thresholds,).
        labels: Names of the classes.
    """
    is_none = np.isin(labels, NONE_CLASSES)
    is_sure = (decisions.exit_index < last_exit) | (decisions.confidence >= reject_thresholds[:, None])
    return is_sure & ~is_none[decisions.label]
