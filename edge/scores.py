"""Recorded scores as a file: what every exit said of labelled samples, of which samples, and which segments said it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.decision import Scores
from edge.errors import BundleError

Digests = NDArray[np.uint64]


class LabelledScores(NamedTuple):
    """What every exit said of labelled samples."""

    logits: NDArray[np.float32]
    """Shape (exits, samples, classes)."""
    scores: Scores
    """As the segments decided, not computed again from the logits."""
    truth: NDArray[np.int64]
    """True classes, shape (samples,)."""
    samples: Digests
    """Digests of each sample's file, and of what the network read of it, shape (samples, 2)."""
    segments: str
    """`segments_digest` of what said it."""


def content_digest(content: bytes) -> str:
    """Return a digest of a sample: of its file, or where it has none of its numbers."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def short_digests(digests: Iterable[str]) -> Digests:
    """Return the first eight bytes of content digests, which is enough to find the same sample again."""
    return np.array([int(digest[:16], 16) for digest in digests], dtype=np.uint64)


def samples_fingerprint(samples: Digests) -> str:
    """Return what tells a set of samples from all others, by what the network read of them, whatever their order."""
    return hashlib.sha256(np.sort(samples[:, 1]).tobytes()).hexdigest()[:32]


def segments_digest(hashes: Iterable[str]) -> str:
    """Return what tells a precision's segments, given the sha256 of each, from all others."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:32]


def write_scores(path: Path, found: LabelledScores) -> None:
    """Keep scores in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            logits=found.logits,
            confidence=found.scores.confidence,
            label=found.scores.label,
            truth=found.truth,
            samples=found.samples,
            segments=np.array(found.segments),
        )


def read_scores(path: Path) -> LabelledScores:
    """Read what `write_scores` wrote.

    Raises:
        BundleError: the file is missing or something else.
    """
    try:
        with np.load(path) as file:
            scores = Scores(file["confidence"], file["label"])
            return LabelledScores(file["logits"], scores, file["truth"], file["samples"], str(file["segments"]))
    except Exception as error:  # a damaged archive raises whatever its damage leads to
        raise BundleError(f"{path} holds no scores ({error}); record them with `edge record`") from error
