"""Which scores thresholds are fitted to, and which must not be."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle.bundle import Bundle
from edge.bundle.sample_ids import samples_fingerprint
from edge.bundle.scores import LabelledScores, read_scores
from edge.errors import ThresholdError


def scores_to_fit(bundle: Bundle, file: Path | None, precision: str | None) -> tuple[dict[str, LabelledScores], str]:
    """Return what the segments of a bundle's precisions said of labelled samples, and what samples these are.

    Args:
        bundle: Whose thresholds are to be fitted.
        file: Scores of `edge record`; None for those the bundle was compiled with.
        precision: Only this one.

    Raises:
        BundleError: the file holds no scores, or the bundle does not have the precision.
        ThresholdError: the scores are of other segments, or of samples that were used for something else.
    """
    if file is None:
        names = [precision] if precision else list(bundle.manifest.precisions)
        return {name: bundle.scores(name) for name in names}, bundle.manifest.splits["thresholds"].fingerprint
    recorded = read_scores(file)
    wanted = [precision] if precision else list(bundle.manifest.precisions)
    names = [name for name in wanted if bundle.segments_digest(name) == recorded.segments]
    if not names:
        raise ThresholdError(
            f"{file} was recorded with other segments than those of {' or '.join(wanted)} in {bundle.path}; "
            "record it again with this bundle"
        )
    _check_shapes(bundle, recorded, file)
    _check_unused(bundle, recorded, file)
    # More than one where `auto` chose the same as another.
    return dict.fromkeys(names, recorded), samples_fingerprint(recorded.samples)


def _check_shapes(bundle: Bundle, recorded: LabelledScores, file: Path) -> None:
    exits, classes, samples = len(bundle.manifest.exits), len(bundle.manifest.labels), len(recorded.truth)
    shapes: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
        "logits": (recorded.logits, (exits, samples, classes)),
        "confidence": (recorded.scores.confidence, (exits, samples)),
        "label": (recorded.scores.label, (exits, samples)),
        "samples": (recorded.samples, (samples, 2)),
    }
    for name, (array, shape) in shapes.items():
        if array.shape != shape or not np.issubdtype(array.dtype, np.number):
            raise ThresholdError(f"{name} in {file} have shape {array.shape}, not {shape}; record the scores again")
    if not np.issubdtype(recorded.truth.dtype, np.integer) or not set(recorded.truth.tolist()) <= set(range(classes)):
        raise ThresholdError(f"{file} names classes that are none of the bundle's {classes}; record the scores again")


def _check_unused(bundle: Bundle, recorded: LabelledScores, file: Path) -> None:
    if copies := len(recorded.samples) - len(np.unique(recorded.samples[:, 1])):
        raise ThresholdError(
            f"{copies} of the {len(recorded.samples)} samples in {file} are copies of others, which prove nothing; "
            "record each image once"
        )
    for split, samples in bundle.used_samples().items():
        if shared := int(np.isin(recorded.samples, samples).any(axis=1).sum()):
            raise ThresholdError(
                f"{shared} of the {len(recorded.samples)} samples in {file} are of the bundle's {split} split; "
                "thresholds fitted to them would promise too much: record other images"
            )
