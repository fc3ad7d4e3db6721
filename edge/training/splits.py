"""Disjoint sets of samples, one for each purpose, with fingerprints that tell whether they are the same again."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.manifest import SplitSpec
from edge.training.datasets import Frames, LabelledImages

SHARES = {"test": 0.20, "thresholds": 0.15, "calibration": 0.08, "validation": 0.07}
"""Share of all samples for each purpose; training gets the rest."""
AT_MOST = {"test": 10_000, "thresholds": 5_000, "calibration": 512, "validation": 5_000}
FEWEST_PER_CLASS = 10

Splits = dict[str, NDArray[np.intp]]
"""Indices of the samples for `train`, `validation`, `calibration` (INT8), `thresholds` and `test`."""


def draw_splits(images: LabelledImages, seed: int) -> Splits:
    """Draw disjoint splits, each with all classes in proportion.

    A sample whose content is already in another split is left out, the test split choosing first, so that no
    two splits share an image that occurs twice.

    Raises:
        DataError: a class has too few samples.
    """
    generator = np.random.default_rng(seed)
    is_test = np.zeros(len(images.labels), dtype=bool)
    if images.official_test is not None:
        is_test[images.official_test] = True
    order = generator.permutation(len(images.labels))
    order = order[np.argsort(~is_test[order], kind="stable")]  # the test split chooses first
    distinct = order[np.sort(np.unique([images.digests[i] for i in order], return_index=True)[1])]
    splits: dict[str, list[NDArray[np.intp]]] = {name: [] for name in ("train", *SHARES)}
    for label, name in enumerate(images.classes):
        members = distinct[images.labels[distinct] == label]
        if len(members) < FEWEST_PER_CLASS:
            raise DataError(
                f"class {name!r} of {images.name} has {len(members)} distinct images; "
                f"five splits need at least {FEWEST_PER_CLASS} a class"
            )
        for purpose, taken in _cut(members, is_test, len(images.labels)).items():
            splits[purpose].append(taken)
    return {purpose: np.sort(np.concatenate(parts)) for purpose, parts in splits.items()}


def split_specs(images: LabelledImages, splits: Splits) -> dict[str, SplitSpec]:
    """Return size and fingerprint of each split."""
    return {
        purpose: SplitSpec(len(indices), fingerprint(images.digests[i] for i in indices))
        for purpose, indices in splits.items()
    }


def fingerprint(digests: Iterable[str]) -> str:
    """Return a digest of a set of samples, whatever their order."""
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:32]


def content_digests(frames: Frames) -> list[str]:
    """Return a digest of each frame's content."""
    return [hashlib.blake2b(frames[i].tobytes(), digest_size=16).hexdigest() for i in range(len(frames))]


def _cut(members: NDArray[np.intp], is_test: NDArray[np.bool_], total: int) -> Splits:
    """Share one class's samples out; an official test split takes its own first."""
    official = is_test.any()
    taken = {"test": members[is_test[members]]} if official else {}
    rest = members[~is_test[members]] if official else members
    available = len(rest)
    for purpose, share in SHARES.items():
        if purpose in taken:
            continue
        count = max(1, round(min(share * available, AT_MOST[purpose] * available / total)))
        taken[purpose], rest = rest[:count], rest[count:]
    return taken | {"train": rest}
