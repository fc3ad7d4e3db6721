"""Disjoint splits of a dataset, identified by fingerprints."""

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import SplitSpec
from edge.bundle.sample_ids import split_fingerprint
from edge.errors import DataError
from edge.training.datasets.base import LabelledImages

SHARES = {"test": 0.20, "thresholds": 0.15, "calibration": 0.08, "validation": 0.07}
"""Share of all samples in each split; the rest is for training."""
MAX_SAMPLES = {"test": 10_000, "thresholds": 5_000, "calibration": 512, "validation": 5_000}
MIN_PER_CLASS = 10
MIN_PER_CLASS_WITH_FOLDS = 13
"""Of 12, one of the test splits would be 3, and leave fewer than `MIN_PER_CLASS`."""
FOLDS = 5
"""Test splits of a cross-validation, which together are all samples."""
PURPOSES = (*SHARES, "train")
UNASSIGNED = len(PURPOSES)
"""Stands for samples that are in no fixed split; the others have the index of theirs in `PURPOSES`."""

Splits = dict[str, NDArray[np.intp]]
"""Indices of the samples for `train`, `validation`, `calibration` (INT8), `thresholds` and `test`."""


def draw_splits(images: LabelledImages, seed: int, fold: int | None = None) -> Splits:
    """Draw disjoint, stratified splits. Splits that the dataset fixes stay as they are.

    Of duplicates, images of the same pixels, a single copy is kept, so that no two splits share an image: the copy in
    the test split, else the copy in another fixed split.

    Args:
        images: The dataset.
        seed: Seed of the splits and of the folds.
        fold: The fifth of all samples that is the test split, from 0 to 4; None to draw the test split.

    Raises:
        DataError: a class has too few distinct samples, or none in a fixed test split; a fixed split has none of its
            own; or there is no such fold.
    """
    if fold is not None:
        images = _with_test_fold(images, seed, fold)
    splits: dict[str, list[NDArray[np.intp]]] = {name: [] for name in PURPOSES}
    fixed_split = _fixed_split(images)
    distinct = _distinct(images, fixed_split, seed)
    _check_fixed_splits(images, fixed_split[distinct])
    shares = {name: share for name, share in SHARES.items() if name not in images.fixed_splits}
    for label, name in enumerate(images.classes):
        members = distinct[images.labels[distinct] == label]
        free = members[fixed_split[members] == UNASSIGNED]
        if len(free) < MIN_PER_CLASS:
            raise DataError(_too_few(images, label, len(free), MIN_PER_CLASS))
        for index, purpose in enumerate(PURPOSES):
            splits[purpose].append(members[fixed_split[members] == index])
        if "test" in images.fixed_splits and not len(splits["test"][-1]):
            raise DataError(
                f"class {name!r} of {images.name} has no images in the fixed test split; add some, or remove the class"
            )
        for purpose, part in _divide(free, shares, len(images.labels)).items():
            splits[purpose].append(part)
    return {purpose: np.sort(np.concatenate(parts)) for purpose, parts in splits.items()}


def split_specs(images: LabelledImages, splits: Splits) -> dict[str, SplitSpec]:
    """Return the size and fingerprint of each split, which depends on images, labels and class names."""
    return {
        purpose: SplitSpec(len(indices), split_fingerprint(_identity(images, int(index)) for index in indices))
        for purpose, indices in splits.items()
    }


def _identity(images: LabelledImages, index: int) -> tuple[str, int, str]:
    """Return the digest, class index and class name of a sample."""
    label = int(images.labels[index])
    return images.digests[index], label, images.classes[label]


def _with_test_fold(images: LabelledImages, seed: int, fold: int) -> LabelledImages:
    """Return the dataset with a fifth of each class as its test split; the folds of one seed are disjoint."""
    if not 0 <= fold < FOLDS:
        raise DataError(f"there is no fold {fold}; the folds are 0 to {FOLDS - 1}")
    if "test" in images.fixed_splits:
        raise DataError(f"{images.name} has a test split of its own, so it has no folds; leave out --fold")
    from sklearn.model_selection import StratifiedKFold  # here: few runs have folds, and its import takes a second

    counts = np.bincount(images.labels, minlength=len(images.classes))
    if counts.min() < MIN_PER_CLASS_WITH_FOLDS:
        raise DataError(_too_few(images, int(counts.argmin()), int(counts.min()), MIN_PER_CLASS_WITH_FOLDS))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(images.labels, images.labels)
    test = next(itertools.islice(folds, fold, None))[1]
    return dataclasses.replace(images, fixed_splits={**images.fixed_splits, "test": test})


def _too_few(images: LabelledImages, label: int, count: int, needed: int) -> str:
    """Return the error of a class that has too few images to split."""
    return (
        f"class {images.classes[label]!r} of {images.name} has {count} distinct images to split; "
        f"at least {needed} of each class are needed: add more, or remove the class"
    )


def _fixed_split(images: LabelledImages) -> NDArray[np.intp]:
    """Return the index of each sample's fixed split in `PURPOSES`, or `UNASSIGNED`."""
    fixed_split = np.full(len(images.labels), UNASSIGNED, dtype=np.intp)
    for purpose, indices in images.fixed_splits.items():
        fixed_split[indices] = PURPOSES.index(purpose)
    return fixed_split


def _check_fixed_splits(images: LabelledImages, kept: NDArray[np.intp]) -> None:
    """Refuse a fixed split without images of its own, given the split of each distinct sample."""
    for purpose, indices in images.fixed_splits.items():
        if (kept == PURPOSES.index(purpose)).any():
            continue
        problem, remedy = "has no images that can be read", "add some"
        if len(indices):
            problem = f"has no images of its own: all {len(indices)} are copies of images in other fixed splits"
            remedy = "replace them"
        raise DataError(
            f"the fixed {purpose} split of {images.name} {problem}; {remedy}, or remove this split, to have it drawn "
            "from the training images"
        )


def _distinct(images: LabelledImages, fixed_split: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Return distinct samples in random order; of duplicates, the copy in the test or another fixed split is kept."""
    order = np.random.default_rng(seed).permutation(len(images.labels))
    order = order[np.argsort(fixed_split[order], kind="stable")]
    first_seen = np.unique([images.copy_digests[index] for index in order], return_index=True)[1]
    return order[np.sort(first_seen)]


def _divide(members: NDArray[np.intp], shares: dict[str, float], total: int) -> Splits:
    """Divide the samples of one class among the splits; the rest is for training."""
    parts, rest = {}, members
    for purpose, share in shares.items():
        count = max(1, round(min(share, MAX_SAMPLES[purpose] / total) * len(members)))
        parts[purpose], rest = rest[:count], rest[count:]
    return parts | {"train": rest}
