"""Disjoint sets of samples, one for each purpose, with fingerprints that tell whether they are the same again."""

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import SplitSpec
from edge.bundle.sample_ids import split_fingerprint
from edge.errors import DataError
from edge.training.datasets.base import LabelledImages

SHARES = {"test": 0.20, "thresholds": 0.15, "calibration": 0.08, "validation": 0.07}
"""Share of all samples for each purpose; training gets the rest."""
AT_MOST = {"test": 10_000, "thresholds": 5_000, "calibration": 512, "validation": 5_000}
FEWEST_PER_CLASS = 10
PURPOSES = (*SHARES, "train")
FREE = len(PURPOSES)

Splits = dict[str, NDArray[np.intp]]
"""Indices of the samples for `train`, `validation`, `calibration` (INT8), `thresholds` and `test`."""


def draw_splits(images: LabelledImages, seed: int) -> Splits:
    """Draw disjoint splits, each with all classes in proportion, but for those the dataset fixes.

    A sample whose content is already in another split is left out, the test split choosing first, so that no
    two splits share an image that occurs twice.

    Raises:
        DataError: a class has too few samples.
    """
    splits: dict[str, list[NDArray[np.intp]]] = {name: [] for name in PURPOSES}
    owner = _fixed_owner(images)
    distinct = _distinct(images, owner, seed)
    shares = {name: share for name, share in SHARES.items() if name not in images.fixed_splits}
    for label, name in enumerate(images.classes):
        members = distinct[images.labels[distinct] == label]
        free = members[owner[members] == FREE]
        if len(free) < FEWEST_PER_CLASS:
            raise DataError(
                f"class {name!r} of {images.name} has {len(free)} distinct images to share out; "
                f"the splits need at least {FEWEST_PER_CLASS} of each class"
            )
        for index, purpose in enumerate(PURPOSES):
            splits[purpose].append(members[owner[members] == index])
        if "test" in images.fixed_splits and not len(splits["test"][-1]):
            raise DataError(f"class {name!r} of {images.name} is not in its test split; nothing could be said of it")
        for purpose, taken in _shared_out(free, shares, len(images.labels)).items():
            splits[purpose].append(taken)
    return {purpose: np.sort(np.concatenate(parts)) for purpose, parts in splits.items()}


def split_specs(images: LabelledImages, splits: Splits) -> dict[str, SplitSpec]:
    """Return size and fingerprint of each split."""
    return {
        purpose: SplitSpec(len(indices), split_fingerprint(images.digests[i] for i in indices))
        for purpose, indices in splits.items()
    }


def _fixed_owner(images: LabelledImages) -> NDArray[np.intp]:
    """Return for each sample the purpose the dataset fixed, by its place in `PURPOSES`, or `FREE`."""
    owner = np.full(len(images.labels), FREE, dtype=np.intp)
    for purpose, indices in images.fixed_splits.items():
        owner[indices] = PURPOSES.index(purpose)
    return owner


def _distinct(images: LabelledImages, owner: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Return the samples in random order, each content once; of equal ones that of the test split stays, then fixed."""
    order = np.random.default_rng(seed).permutation(len(images.labels))
    order = order[np.argsort(owner[order], kind="stable")]
    first_seen = np.unique([images.digests[index] for index in order], return_index=True)[1]
    return order[np.sort(first_seen)]


def _shared_out(members: NDArray[np.intp], shares: dict[str, float], total: int) -> Splits:
    """Cut one class's samples into parts; training gets the rest."""
    parts, rest = {}, members
    for purpose, share in shares.items():
        count = max(1, round(min(share, AT_MOST[purpose] / total) * len(members)))
        parts[purpose], rest = rest[:count], rest[count:]
    return parts | {"train": rest}
