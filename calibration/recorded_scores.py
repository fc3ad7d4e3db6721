"""Scores to fit thresholds to: those in the bundle, or scores recorded on a device from unused samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle.bundle import Bundle
from edge.bundle.sample_ids import samples_fingerprint
from edge.bundle.scores import LabelledScores
from edge.cli.recorded import read_recorded
from edge.errors import ThresholdError


def scores_to_fit(
    bundle: Bundle, file: Path | None, precisions: Sequence[str] | None
) -> tuple[dict[str, LabelledScores], str]:
    """Return the scores of each precision to fit, and the fingerprint of their samples.

    Args:
        bundle: The bundle whose thresholds are fitted.
        file: Scores written by `edge record` or `edge score --every-exit`; None for those in the bundle.
        precisions: The precisions to fit, each of which must have scores; None for all that have.

    Raises:
        BundleError: the file holds no scores, or the bundle does not have a precision.
        ThresholdError: the scores were recorded from other segments, or from samples that served another purpose.
    """
    wanted = list(precisions or bundle.manifest.precisions)
    if file is None:
        return {name: bundle.scores(name) for name in wanted}, bundle.manifest.splits["thresholds"].fingerprint
    recorded = read_recorded(file, bundle.manifest.labels)
    names = [name for name in wanted if bundle.segments_digest(name) == recorded.segments]
    others = [name for name in wanted if name not in names]
    if not names or (precisions and others):
        raise ThresholdError(
            f"{file} was recorded with other segments than those of {' or '.join(others)} in {bundle.path}; "
            "record it again with this bundle and precision"
        )
    _check_shapes(bundle, recorded, file)
    _check_samples(bundle, recorded, file)
    # Several names if precisions have equal segments, as `auto` and `int8` may.
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
            raise ThresholdError(
                f"{name} in {file} has shape {array.shape} and dtype {array.dtype}, expected numbers of shape {shape}; "
                "record the scores again"
            )
    if not np.issubdtype(recorded.truth.dtype, np.integer) or not set(recorded.truth.tolist()) <= set(range(classes)):
        raise ThresholdError(
            f"{file} has labels other than the bundle's classes 0 to {classes - 1}; record the scores again"
        )


def _check_samples(bundle: Bundle, recorded: LabelledScores, file: Path) -> None:
    """Refuse duplicates, which break the statistics, and samples that the network was trained or tuned on."""
    total = len(recorded.samples)
    if duplicates := total - len(np.unique(recorded.samples[:, 1])):
        raise ThresholdError(
            f"{duplicates} of the {total} samples in {file} are copies of others, which would overstate the evidence; "
            "record each image once"
        )
    for split, samples in bundle.used_samples().items():
        if used := int(np.isin(recorded.samples, samples).any(axis=1).sum()):
            raise ThresholdError(
                f"{used} of the {total} samples in {file} belong to the bundle's {split} split; thresholds fitted to "
                "them would underestimate the risk; record other images"
            )
