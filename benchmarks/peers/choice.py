"""The early exits that compete with a peer: chosen on the threshold-fitting split, judged on test images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EQUAL_ACCURACY = 0.005
"""Accuracy that early exits may lose to a peer, the limit of the demo's guarantee."""
STANDARD_ERRORS = 2
"""Standard errors by which early exits must keep that limit where they are chosen."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One way to classify the images of a split."""

    name: str
    times_ms: NDArray[np.float64]
    """Time of each image."""
    correct: NDArray[np.bool_]

    @property
    def ms_mean(self) -> float:
        """Mean time of an image."""
        return float(self.times_ms.mean())

    @property
    def accuracy(self) -> float:
        """Share of correct labels."""
        return float(self.correct.mean())


def choose(peer: Run, ours: Sequence[Run]) -> int:
    """Return the index of the early exits to set beside a peer, all measured on the same images.

    They are the fastest that lose at most `EQUAL_ACCURACY` to the peer, by `STANDARD_ERRORS` of the paired difference;
    where there are none, the most accurate.
    """
    candidates = range(len(ours))
    accurate = [index for index in candidates if _largest_loss(peer, ours[index]) <= EQUAL_ACCURACY]
    if accurate:
        return min(accurate, key=lambda index: ours[index].ms_mean)
    return max(candidates, key=lambda index: (ours[index].accuracy, -ours[index].ms_mean))


def is_ahead(ours: Run, peer: Run) -> bool:
    """Check that early exits are faster than a peer and lose at most `EQUAL_ACCURACY`."""
    return ours.ms_mean < peer.ms_mean and ours.accuracy >= peer.accuracy - EQUAL_ACCURACY


def _largest_loss(peer: Run, ours: Run) -> float:
    """Return the loss of accuracy plus its standard errors."""
    losses = peer.correct.astype(float) - ours.correct
    return float(losses.mean() + STANDARD_ERRORS * losses.std() / math.sqrt(len(losses)))
