"""The guarantee in a manifest, held to the scores that the bundle records."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import PrecisionSpec, Thresholds
from edge.bundle.sample_split import fitting_and_rejection, tuning_and_certification
from edge.decision import decide, validate_thresholds
from edge.risk import HIGH_PROBABILITY_METHODS, PROCEDURES, RISKS, CandidateLosses


def broken_guarantee(bundle: Bundle, precision: str) -> str | None:
    """Return the contradiction between a precision's guarantee and the scores in the bundle; None if there is none.

    Scores of other segments support nothing. The procedure in the manifest has to certify the candidates again, in
    their order, on the samples that certified them; options that are not in the manifest decide which of `_certifying`
    they were. Each candidate passed a test of its own, so the candidates pass without those that were left out.
    Thresholds that were fitted to samples of a device, or to a budget, guarantee nothing about these scores.

    Raises:
        BundleError: the bundle does not have the precision, or its scores are damaged.
    """
    recorded, spec = bundle.scores(precision), bundle.precision(precision)
    fitted = spec.thresholds
    if recorded.segments != bundle.segments_digest(precision):
        return "the recorded scores are those of other segments"
    if fitted.target_metric not in RISKS or fitted.split != bundle.manifest.splits["thresholds"].fingerprint:
        return None
    if not fitted.values:
        return None  # a network of one exit has no early exits to test
    risk, exits = RISKS[fitted.target_metric], len(bundle.manifest.exits)
    values = [validate_thresholds(candidate.values, exits) for candidate in fitted.candidates]
    losses = np.stack([risk(recorded.scores, decide(recorded.scores, each), recorded.truth) for each in values])
    if any(_is_certified(fitted, losses[:, samples]) for samples in _certifying(spec, len(recorded.truth))):
        return None
    return (
        f"the recorded scores do not support the guarantee of {precision}: on them, the method {fitted.method!r} does "
        f"not certify that the {fitted.target_metric} is within its limit of {fitted.limit:g}"
    )


def _is_certified(fitted: Thresholds, losses: CandidateLosses) -> bool:
    """Return True if the procedure certifies all candidates; False also if it is unknown, or cannot be run."""
    level, limit = fitted.confidence_level, fitted.limit
    is_test = fitted.method in HIGH_PROBABILITY_METHODS
    if fitted.method not in PROCEDURES or (is_test and (level is None or not 0 < limit < 1)):
        return False
    return bool(PROCEDURES[fitted.method](losses, limit, 1 - (level or 0)).all())


def _certifying(spec: PrecisionSpec, recorded: int) -> Iterator[NDArray[np.intp]]:
    """Yield the samples that may have certified thresholds: all that they were fitted to, or all but the tuning.

    They are in the order of the fit, on which the bets of `betting` depend.
    """
    fitting = np.arange(recorded) if spec.rejection is None else fitting_and_rejection(recorded)[0]
    tuning, certification = tuning_and_certification(len(fitting))
    yield fitting[np.concatenate([tuning, certification])]
    yield fitting[certification]
