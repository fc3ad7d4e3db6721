"""Sample identity: digests of samples, and fingerprints of sets of samples."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]
"""Arrays of the first eight bytes of content digests."""


def content_digest(content: bytes | memoryview) -> str:
    """Return the digest of a sample's file or, for samples without a file, of its array."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def short_digests(digests: Iterable[str]) -> Digests:
    """Return the first eight bytes of content digests, enough to identify a sample among millions."""
    return np.array([int(digest[:16], 16) for digest in digests], dtype=np.uint64)


def split_fingerprint(samples: Iterable[tuple[str, int, str]]) -> str:
    """Return the fingerprint of a set of labelled samples, so that a corrected label or a renamed class changes it.

    Args:
        samples: Content digest, class index and class name of each sample, in any order.
    """
    lines = sorted(f"{digest} {label} {name}\n" for digest, label, name in samples)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def samples_fingerprint(samples: Digests) -> str:
    """Return the fingerprint of recorded samples, independent of their order.

    Args:
        samples: Digests of files and network inputs, shape (samples, 2).
    """
    return hashlib.sha256(np.sort(samples[:, 1]).tobytes()).hexdigest()[:32]
