"""Recorded scores of labelled samples on disk, with digests of the samples and of the segments."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.bundle.npz import ArraySpec, holds_arrays, read_npz, write_npz
from edge.bundle.sample_ids import Digests
from edge.decision import Scores
from edge.errors import BundleError

MEMBERS = {
    "logits": ArraySpec(("f4",), (3,)),
    "confidence": ArraySpec(("f4",), (2,)),
    "label": ArraySpec(("i4",), (2,)),
    "truth": ArraySpec(("i8",), (1,)),
    "samples": ArraySpec(("u8",), (2,)),
    "segments": ArraySpec(("U",), (0,)),
}
"""Arrays in a file of scores."""


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
    arrays: dict[str, NDArray[Any]] = {
        "logits": recorded.logits,
        "confidence": recorded.scores.confidence,
        "label": recorded.scores.label,
        "truth": recorded.truth,
        "samples": recorded.samples,
        "segments": np.array(recorded.segments),
    }
    write_npz(path, arrays)


def read_scores(path: Path, content: bytes | None = None) -> LabelledScores:
    """Read recorded scores from a file.

    Args:
        path: The file, for messages; it is read if `content` is None.
        content: The content of the file.

    Raises:
        BundleError: the file is missing or damaged, or has other contents.
    """
    try:
        arrays = read_npz(path, MEMBERS, content)
        scores = Scores(arrays["confidence"], arrays["label"])
        recorded = LabelledScores(arrays["logits"], scores, arrays["truth"], arrays["samples"], str(arrays["segments"]))
        _check_shapes(recorded)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BundleError(f"{path} holds no scores ({reason}); record them with `edge record`") from error
    return recorded


def holds_scores(path: Path) -> bool:
    """Check that a file has the arrays of recorded scores.

    Raises:
        OSError: the file cannot be read.
    """
    return holds_arrays(path, MEMBERS)


def check_scores(recorded: LabelledScores, exits: int, classes: int, path: Path) -> None:
    """Check that scores have the exits and classes of a network.

    Raises:
        BundleError: they belong to another network.
    """
    actual = recorded.logits.shape[0], recorded.logits.shape[2]
    if actual != (exits, classes):
        raise BundleError(
            f"{path} has scores of {actual[0]} exits and {actual[1]} classes, the bundle has {exits} and {classes}; "
            "record the scores again with this bundle"
        )


def _check_shapes(recorded: LabelledScores) -> None:
    """Check that all arrays have the same exits, samples and classes.

    Raises:
        ValueError: a shape or class differs.
    """
    exits, samples, classes = recorded.logits.shape
    if not exits or not samples or not classes:
        raise ValueError(f"logits has shape {recorded.logits.shape} and is empty")
    expected = {
        "confidence": (recorded.scores.confidence.shape, (exits, samples)),
        "label": (recorded.scores.label.shape, (exits, samples)),
        "truth": (recorded.truth.shape, (samples,)),
        "samples": (recorded.samples.shape, (samples, 2)),
    }
    for name, (shape, required) in expected.items():
        if shape != required:
            raise ValueError(f"{name} has shape {shape}, expected {required}, since logits has {recorded.logits.shape}")
    named: dict[str, NDArray[Any]] = {"label": recorded.scores.label, "truth": recorded.truth}
    for name, labels in named.items():
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"{name} has classes {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
