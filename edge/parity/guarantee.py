"""The guarantee in a manifest, held to the scores that the bundle records."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import PrecisionSpec
from edge.bundle.sample_split import fitting_and_rejection, tuning_and_certification
from edge.decision import decide, validate_thresholds
from edge.risk import RISKS, ROUNDING


def broken_guarantee(bundle: Bundle, precision: str) -> str | None:
    """Return the contradiction between a precision's guarantee and the scores in the bundle; None if there is none.

    Scores of other segments support nothing. On the samples that certify thresholds, the mean risk of each candidate
    must be within the limit, which every procedure of `edge.risk` requires; options that are not in the manifest decide
    which of `_certifying` they were. Thresholds that were fitted to samples of a device, or to a budget, guarantee
    nothing about these scores.

    Raises:
        BundleError: the bundle does not have the precision, or its scores are damaged.
    """
    recorded, spec = bundle.scores(precision), bundle.precision(precision)
    fitted = spec.thresholds
    if recorded.segments != bundle.segments_digest(precision):
        return "the recorded scores are those of other segments"
    if fitted.target_metric not in RISKS or fitted.split != bundle.manifest.splits["thresholds"].fingerprint:
        return None
    risk = RISKS[fitted.target_metric]
    for candidate in fitted.candidates:
        thresholds = validate_thresholds(candidate.values, len(bundle.manifest.exits))
        losses = risk(recorded.scores, decide(recorded.scores, thresholds), recorded.truth)
        value = min(float(losses[samples].mean()) for samples in _certifying(spec, len(losses)))
        if not value <= fitted.limit + ROUNDING:
            return (
                f"on the recorded scores the {fitted.target_metric} of {precision} is {value:.4f}, above its limit of "
                f"{fitted.limit:g}"
            )
    return None


def _certifying(spec: PrecisionSpec, recorded: int) -> Iterator[NDArray[np.intp]]:
    """Yield the samples that may have certified thresholds: all that they were fitted to, or all but the tuning."""
    fitting = np.arange(recorded) if spec.rejection is None else fitting_and_rejection(recorded)[0]
    yield fitting
    yield fitting[tuning_and_certification(len(fitting))[1]]
