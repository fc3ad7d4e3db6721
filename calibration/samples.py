"""Selection of INT8 calibration samples."""

import math

import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError

MIN_SAMPLES = 32


def stratified(candidates: NDArray[np.intp], labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.intp]:
    """Return up to `count` candidates, drawn from the classes in turn.

    Args:
        candidates: Indices of the samples to select from.
        labels: Class of every sample of the dataset, not of the candidates only.
        count: Number of samples; all candidates are returned if there are fewer.
        seed: Seed of the order within a class.

    Raises:
        DataError: there are fewer than `MIN_SAMPLES` candidates.
    """
    check_count(len(candidates), len(labels))
    shuffled = np.random.default_rng(seed).permutation(candidates)
    rank_in_class = np.zeros(len(shuffled), dtype=np.intp)
    for label in np.unique(labels[shuffled]):
        members = labels[shuffled] == label
        rank_in_class[members] = np.arange(members.sum())
    return shuffled[np.argsort(rank_in_class, kind="stable")][:count]


def check_count(candidates: int, images: int) -> None:
    """Refuse a split that is too small to measure activation ranges on.

    Args:
        candidates: Images of the split.
        images: Images of the dataset, from which the split was drawn.

    Raises:
        DataError: there are fewer than `MIN_SAMPLES` candidates.
    """
    if candidates < MIN_SAMPLES:
        needed = math.ceil(MIN_SAMPLES * images / max(candidates, 1) / 10) * 10
        raise DataError(
            f"INT8 calibration needs at least {MIN_SAMPLES} images, and the split has {candidates} of the {images} "
            f"images in all; bring about {needed} and train again, or compile with --precision fp32 fp16"
        )
