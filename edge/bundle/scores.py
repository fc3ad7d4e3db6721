"""Recorded scores of labelled samples on disk, with digests of the samples and of the segments."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.bundle.sample_ids import Digests
from edge.decision import Scores
from edge.errors import BundleError


class LabelledScores(NamedTuple):
    """Every exit's outputs for labelled samples."""

    logits: NDArray[np.float32]
    """Shape (exits, samples, classes)."""
    scores: Scores
    """As the segments computed them, not derived from the logits."""
    truth: NDArray[np.int64]
    """True labels, shape (samples,)."""
    samples: Digests
    """Digest of each sample's file and of its network input, shape (samples, 2)."""
    segments: str
    """`combined_digest` of the recorded segments."""


def combined_digest(hashes: Iterable[str]) -> str:
    """Return the digest of a precision's segments, given the sha256 of each file."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:32]


def write_scores(path: Path, recorded: LabelledScores) -> None:
    """Write recorded scores to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            logits=recorded.logits,
            confidence=recorded.scores.confidence,
            label=recorded.scores.label,
            truth=recorded.truth,
            samples=recorded.samples,
            segments=np.array(recorded.segments),
        )


def read_scores(path: Path) -> LabelledScores:
    """Read recorded scores from a file.

    Raises:
        BundleError: the file is missing, damaged or holds something else.
    """
    try:
        with np.load(path) as file:
            scores = Scores(file["confidence"], file["label"])
            return LabelledScores(file["logits"], scores, file["truth"], file["samples"], str(file["segments"]))
    except Exception as error:  # a damaged archive can raise anything
        raise BundleError(f"{path} holds no scores ({error}); record them with `edge record`") from error
