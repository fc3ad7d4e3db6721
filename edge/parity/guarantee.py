"""The guarantees in a manifest, held to the scores that the bundle records."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import PrecisionSpec, Rejection, Thresholds
from edge.bundle.sample_split import fitting_and_rejection, tuning_and_certification
from edge.bundle.scores import LabelledScores
from edge.decision import Decisions, Scores, accepted, decide, validate_thresholds
from edge.risk import HIGH_PROBABILITY_METHODS, PROCEDURES, RISKS, Losses


def broken_guarantee(bundle: Bundle, precision: str) -> str | None:
    """Return the contradiction between a precision's guarantees and the scores in the bundle; None if there is none.

    Scores of other segments support nothing. The procedures in the manifest have to certify early exits and rejection
    again, on the samples that certified them, in their order. What was fitted to samples of a device guarantees nothing
    about these scores.

    Raises:
        BundleError: the bundle does not have the precision, or its scores are damaged.
    """
    recorded, spec = bundle.scores(precision), bundle.precision(precision)
    if recorded.segments != bundle.segments_digest(precision):
        return "the recorded scores are those of other segments"
    split = bundle.manifest.splits["thresholds"].fingerprint
    fitted, rejection = spec.thresholds, spec.rejection
    if fitted.split == split and not _certifies_exits(spec, recorded):
        return _contradiction(fitted.method, f"the {fitted.target_metric} of {precision}", fitted.limit)
    labels = bundle.manifest.labels
    if rejection is not None and rejection.split == split and not _certifies_rejection(spec, recorded, labels):
        return _contradiction(rejection.method, f"the error of {precision} among the accepted", rejection.limit)
    return None


def _contradiction(method: str, risk: str, limit: float) -> str:
    return (
        f"on the recorded scores, the method {method!r} does not certify that {risk} is within its limit of {limit:g}"
    )


def _certifies_exits(spec: PrecisionSpec, recorded: LabelledScores) -> bool:
    """Test the candidates again; options that are not in the manifest decide which of `_certifying` certified them.

    Each candidate passed a test of its own, so the candidates pass without those that were left out. Thresholds for a
    budget, and a network of one exit, have no test.
    """
    fitted = spec.thresholds
    if fitted.target_metric not in RISKS or not fitted.values:
        return True
    risk, (scores, truth) = RISKS[fitted.target_metric], (recorded.scores, recorded.truth)
    losses = np.stack([risk(scores, decisions, truth) for decisions in _decisions(fitted, scores)])
    return any(_is_certified(fitted, losses[:, samples]) for samples in _certifying(spec, len(truth)))


def _certifies_rejection(spec: PrecisionSpec, recorded: LabelledScores, labels: Sequence[str]) -> bool:
    """Test the reject threshold again, with the thresholds of every candidate.

    A rejected sample's loss is the limit, so that the mean loss is within it exactly if the error of the others is.
    """
    if (rejection := spec.rejection) is None:
        return True
    _, samples = fitting_and_rejection(len(recorded.truth))
    scores, threshold = recorded.scores.select(samples), np.array([rejection.threshold], dtype=np.float32)
    for decisions in _decisions(spec.thresholds, scores):
        [is_accepted] = accepted(decisions, len(scores.label) - 1, threshold, labels)
        losses = np.where(is_accepted, decisions.label != recorded.truth[samples], rejection.limit)
        if not _is_certified(rejection, losses[None]):
            return False
    return True


def _decisions(fitted: Thresholds, scores: Scores) -> Iterator[Decisions]:
    """Yield the decisions with each candidate."""
    for candidate in fitted.candidates:
        yield decide(scores, validate_thresholds(candidate.values, len(scores.label)))


def _is_certified(claim: Thresholds | Rejection, losses: Losses) -> bool:
    """Return True if the procedure certifies all candidates; False also if it is unknown, or cannot be run.

    Args:
        claim: The procedure with its limit and confidence.
        losses: Shape (candidates, samples).
    """
    level, limit = claim.confidence_level, claim.limit
    is_test = claim.method in HIGH_PROBABILITY_METHODS
    if claim.method not in PROCEDURES or (is_test and not (0 < (level or 0) < 1 and 0 < limit < 1)):
        return False
    return bool(PROCEDURES[claim.method](losses, limit, 1 - (level or 0)).all())


def _certifying(spec: PrecisionSpec, recorded: int) -> Iterator[NDArray[np.intp]]:
    """Yield the samples that may have certified thresholds: all that they were fitted to, or all but the tuning.

    They are in the order of the fit, on which the bets of `betting` depend.
    """
    fitting = np.arange(recorded) if spec.rejection is None else fitting_and_rejection(recorded)[0]
    tuning, certification = tuning_and_certification(len(fitting))
    yield fitting[np.concatenate([tuning, certification])]
    yield fitting[certification]
