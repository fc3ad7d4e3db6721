"""The reject threshold: the most accepted predictions whose error is certified to be within a limit.

A prediction is accepted if an early exit makes it, or the last exit with a confidence of at least the reject
threshold. The error among the accepted, `P(wrong | accepted)`, is tested as a mean loss, as in Learn then Test
(Angelopoulos et al. 2021): an accepted sample's loss is its error, a rejected sample's loss is the limit. The mean is
within the limit exactly if the error among the accepted is.

Reject thresholds are tested along a fixed sequence of falling values until the first failure, on samples that neither
the exits' thresholds nor the start of the sequence were fitted to. Each is tested with the thresholds of every
candidate, and all tests must succeed (an intersection-union test, Berger 1982), so that the limit holds whichever
candidate is in use.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.sequences import SHARED_GRID
from calibration.thresholds import DEFAULT_CONFIDENCE, RiskGuarantee, check_confidence_level, check_guarantee
from edge.bundle.manifest import Rejection, Thresholds
from edge.bundle.sample_split import fitting_and_rejection
from edge.decision import NEVER, Scores, accepted, decide
from edge.errors import ThresholdError
from edge.risk import MAX_SEARCHED_SAMPLES, PROCEDURES, CandidateLosses, LazyLosses, certifies_lossless, min_samples

REJECT_GRID = np.array([NEVER, *SHARED_GRID], dtype=np.float32)
"""Reject thresholds, from none of the last exit's predictions accepted to all."""

FitThresholds = Callable[[Mapping[str, Scores], NDArray[np.int64]], dict[str, Thresholds]]
"""Takes each precision's scores and the true labels; returns each precision's thresholds."""


@dataclass(frozen=True, slots=True)
class RejectGuarantee:
    """A bound on the error among the accepted predictions, for samples that nothing was fitted to."""

    limit: float
    method: Literal["betting", "hoeffding-bentkus"] = "betting"
    """Procedure that certifies the limit: see `edge.risk`."""
    confidence_level: float = DEFAULT_CONFIDENCE

    @property
    def delta(self) -> float:
        """Probability with which the limit may be exceeded."""
        return 1 - self.confidence_level


class Fitted(NamedTuple):
    """The thresholds of one precision, and its rejection if one was asked for."""

    thresholds: Thresholds
    rejection: Rejection | None


class Labelled(NamedTuple):
    """Scores of one precision for labelled samples."""

    scores: Scores
    truth: NDArray[np.int64]
    labels: Sequence[str]
    """Names of the classes."""

    def select(self, samples: NDArray[np.intp]) -> "Labelled":
        """Return some of the samples, by their indices."""
        return Labelled(self.scores.select(samples), self.truth[samples], self.labels)


class Outcomes(NamedTuple):
    """Accepted and wrong predictions with given thresholds."""

    is_accepted: NDArray[np.bool_]
    """With each of `REJECT_GRID`, shape (reject thresholds, samples)."""
    is_wrong: NDArray[np.bool_]
    """Shape (samples,)."""

    def losses(self, limit: float, start: int = 0) -> CandidateLosses:
        """Return losses whose mean is within the limit exactly if the error among the accepted is.

        Args:
            limit: Largest error among the accepted.
            start: Index of the first reject threshold.
        """
        return LazyLosses(lambda accepted: np.where(accepted, self.is_wrong, limit), self.is_accepted[start:])


def fit_with_rejection(
    fit: FitThresholds,
    scores: Mapping[str, Scores],
    truth: NDArray[np.int64],
    labels: Sequence[str],
    guarantee: RejectGuarantee | None,
    split: str,
) -> dict[str, Fitted]:
    """Fit each precision's thresholds and, with samples held out from that fit, its rejection.

    Args:
        fit: Fits the thresholds.
        scores: Scores of each precision on the threshold-fitting split.
        truth: True labels, shape (samples,).
        labels: Names of the classes.
        guarantee: The guarantee to certify; None to fit thresholds to all samples and accept every prediction.
        split: Fingerprint of the split, for the manifest.

    Raises:
        ThresholdError: a guarantee is invalid, or the samples do not support it.
    """
    if guarantee is None:
        return {name: Fitted(thresholds, None) for name, thresholds in fit(scores, truth).items()}
    _check_guarantee(guarantee)
    fitting, certification = fitting_and_rejection(len(truth))
    thresholds = fit({name: each.select(fitting) for name, each in scores.items()}, truth[fitting])
    fitted = {}
    for name, each in scores.items():
        samples = Labelled(each, truth, labels)
        parts = samples.select(fitting), samples.select(certification)
        fitted[name] = Fitted(thresholds[name], _fit_rejection(*parts, thresholds[name], guarantee, split))
    return fitted


def check_guarantees(guarantee: RiskGuarantee, reject: RejectGuarantee | None, samples: int, exits: int) -> None:
    """Check that guarantees are valid, and that scores of so many samples may support them.

    Args:
        guarantee: The guarantee of early exits.
        reject: The guarantee on accepted predictions; None if no prediction is rejected.
        samples: Number of samples of the threshold-fitting split.
        exits: Number of exits.

    Raises:
        ThresholdError: a guarantee is invalid, or the samples are too few for it.
    """
    if reject is None:
        check_guarantee(guarantee, samples, exits)
        return
    _check_guarantee(reject)
    fitting, certification = (len(part) for part in fitting_and_rejection(samples))
    check_guarantee(guarantee, fitting, exits)
    if not certifies_lossless(PROCEDURES[reject.method], certification, reject.limit, reject.delta):
        raise ThresholdError(
            f"{certification} samples are too few to certify an error of at most {reject.limit:g} among the accepted "
            f"with the method {reject.method!r}, which needs {_samples_needed(reject)}; bring more images, of which a "
            "third certifies it, or allow a higher error (--reject-limit)"
        )


def outcomes(samples: Labelled, thresholds: Sequence[float]) -> Outcomes:
    """Return the accepted and the wrong predictions with given thresholds, one for each exit but the last."""
    decisions = decide(samples.scores, np.array(thresholds, dtype=np.float32))
    last_exit = len(samples.scores.label) - 1
    return Outcomes(
        is_accepted=accepted(decisions, last_exit, REJECT_GRID, samples.labels),
        is_wrong=decisions.label != samples.truth,
    )


def _fit_rejection(
    fitting: Labelled, certification: Labelled, thresholds: Thresholds, guarantee: RejectGuarantee, split: str
) -> Rejection:
    """Return the lowest reject threshold that is certified for every candidate.

    The sequence starts where, on the fitting samples, the largest mean loss of a candidate is smallest: a test detects
    it best.
    """
    candidates, limit = [candidate.values for candidate in thresholds.candidates], guarantee.limit
    fitted_means = [[losses.mean() for losses in outcomes(fitting, values).losses(limit)] for values in candidates]
    start = int(np.max(fitted_means, axis=0).argmin())
    judged = [outcomes(certification, values) for values in candidates]
    certified = np.ones(len(REJECT_GRID) - start, dtype=bool)
    for candidate in judged:
        certified &= PROCEDURES[guarantee.method](candidate.losses(limit, start), limit, guarantee.delta)
    if not certified.any():
        worst = max(judged, key=lambda candidate: float(next(iter(candidate.losses(limit, start))).mean()))
        raise ThresholdError(_not_certified(worst.is_accepted[start], worst.is_wrong, guarantee))
    lowest = start + int(certified.sum()) - 1
    return Rejection(
        threshold=float(REJECT_GRID[lowest]),
        limit=limit,
        confidence_level=guarantee.confidence_level,
        method=guarantee.method,
        coverage=float(judged[-1].is_accepted[lowest].mean()),
        samples=len(certification.truth),
        split=split,
    )


def _check_guarantee(guarantee: RejectGuarantee) -> None:
    if not 0 < guarantee.limit < 1:
        raise ThresholdError(
            f"the limit of the error among the accepted is {guarantee.limit}; give a fraction above 0 and below 1, "
            "such as 0.01"
        )
    check_confidence_level(guarantee.confidence_level)


def _not_certified(is_accepted: NDArray[np.bool_], is_wrong: NDArray[np.bool_], guarantee: RejectGuarantee) -> str:
    wrong, count = is_wrong[is_accepted].sum(), is_accepted.sum()
    return (
        f"{len(is_accepted)} samples do not certify an error of at most {guarantee.limit:g} among the accepted with "
        f"the method {guarantee.method!r}: {wrong} of the {count} that the network is surest of are wrong, and without "
        f"an error it needs {_samples_needed(guarantee)}; bring more images, of which a third "
        "certifies it, allow a higher error (--reject-limit), or let fewer images exit early (--limit)"
    )


def _samples_needed(guarantee: RejectGuarantee) -> str:
    needed = min_samples(PROCEDURES[guarantee.method], guarantee.limit, guarantee.delta)
    return f"{needed or f'more than {MAX_SEARCHED_SAMPLES}'}"
