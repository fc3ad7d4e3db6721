"""The guarantee in a manifest, held to the scores that the bundle records."""

from edge.bundle.bundle import Bundle
from edge.decision import decide, validate_thresholds
from edge.risk import RISKS, ROUNDING


def broken_guarantee(bundle: Bundle, precision: str) -> str | None:
    """Return the contradiction between a precision's guarantee and the scores in the bundle; None if there is none.

    Scores of other segments support nothing. On scores that the thresholds were fitted to, the mean risk of each
    candidate must be within the limit, which every procedure of `edge.risk` requires. Thresholds that were fitted to
    samples of a device, or to a budget, guarantee nothing about these scores.

    Raises:
        BundleError: the bundle does not have the precision, or its scores are damaged.
    """
    recorded, fitted = bundle.scores(precision), bundle.precision(precision).thresholds
    if recorded.segments != bundle.segments_digest(precision):
        return "the recorded scores are those of other segments"
    if fitted.target_metric not in RISKS or fitted.split != bundle.manifest.splits["thresholds"].fingerprint:
        return None
    risk = RISKS[fitted.target_metric]
    for candidate in fitted.candidates:
        thresholds = validate_thresholds(candidate.values, len(bundle.manifest.exits))
        value = float(risk(recorded.scores, decide(recorded.scores, thresholds), recorded.truth).mean())
        if not value <= fitted.limit + ROUNDING:
            return (
                f"on the recorded scores the {fitted.target_metric} of {precision} is {value:.4f}, above its limit of "
                f"{fitted.limit:g}"
            )
    return None
