"""Comparison of recorded scores of the same images, exit by exit: of two machines, backends or precisions."""

import numpy as np
from numpy.typing import NDArray

from edge.bundle.bundle import Bundle
from edge.bundle.sample_ids import Digests
from edge.bundle.scores import LabelledScores, check_scores
from edge.decision import Scores
from edge.errors import BundleError
from edge.inference.record import Recording
from edge.parity.compare import Outputs, Parity, compare

RecordedScores = tuple[str, LabelledScores]
"""Scores with the name of their file or folder."""


def compare_recorded(bundle: Bundle, reference: RecordedScores, recorded: RecordedScores) -> Parity:
    """Compare recorded scores with others, with the thresholds and tolerances of the precision that was recorded.

    Args:
        bundle: The recorded bundle.
        reference: Scores to compare with, of any precision.
        recorded: The scores.

    Raises:
        BundleError: the scores are of another bundle, or of other images than the reference.
    """
    _precision_of(bundle, reference)
    precision = _precision_of(bundle, recorded)
    (name, scores), (reference_name, expected) = recorded, reference
    order, expected_order = _order(scores.samples), _order(expected.samples)
    if not np.array_equal(scores.samples[order], expected.samples[expected_order]):
        raise BundleError(
            f"{name} has scores of {len(order)} images, {reference_name} of {len(expected_order)}, and they are not "
            "the same images; record the same images for both"
        )
    return compare(
        precision,
        _outputs(name, scores, order),
        _outputs(reference_name, expected, expected_order),
        scores.truth[order],
        bundle.precision(precision).thresholds.values,
    )


def _precision_of(bundle: Bundle, recorded: RecordedScores) -> str:
    """Return the precision that was recorded.

    Raises:
        BundleError: the scores are of another bundle.
    """
    name, scores = recorded
    for precision in bundle.manifest.precisions:
        if bundle.segments_digest(precision) == scores.segments:
            check_scores(scores, len(bundle.manifest.exits), len(bundle.manifest.labels), bundle.path)
            return precision
    raise BundleError(f"{name} was recorded with other segments than those of {bundle.path}; record it again")


def _order(samples: Digests) -> NDArray[np.intp]:
    """Return the order of samples by their digests."""
    return np.lexsort(samples.T)


def _outputs(name: str, scores: LabelledScores, order: NDArray[np.intp]) -> Outputs:
    in_order = Scores(scores.scores.confidence[:, order], scores.scores.label[:, order])
    return Outputs(name, Recording(scores.logits[:, order], in_order))
