"""Which samples the INT8 ranges are measured on."""

import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError

FEWEST = 32


def stratified(candidates: NDArray[np.intp], labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.intp]:
    """Return up to `count` of the candidates, taking turns among the classes.

    Args:
        candidates: Indices to choose from.
        labels: Class of every sample of the dataset, not of the candidates only.
        count: How many to return; fewer if there are fewer candidates.
        seed: Of the choice within a class.

    Raises:
        DataError: there are too few candidates to measure ranges on.
    """
    if len(candidates) < FEWEST:
        raise DataError(
            f"INT8 calibration needs at least {FEWEST} images, the split has {len(candidates)}; bring more images"
        )
    shuffled = np.random.default_rng(seed).permutation(candidates)
    turn = np.zeros(len(shuffled), dtype=np.intp)
    for label in np.unique(labels[shuffled]):
        members = labels[shuffled] == label
        turn[members] = np.arange(members.sum())
    return shuffled[np.argsort(turn, kind="stable")][:count]
