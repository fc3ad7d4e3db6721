"""Split of the samples that a guarantee is fitted to: always the same, so that a device finds the parts again."""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

TUNING_SHARE = Fraction(1, 20)
"""Share of the samples that tune candidates with a threshold per exit; the others certify them."""
REJECTION_SHARE = 1 / 3
"""Share of the samples that certify the reject threshold; the others fit the exits' thresholds."""


def tuning_and_certification(samples: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of the samples that tune candidates, and of those that certify them, shuffled.

    Shuffled, because the bets of `betting` assume samples in random order.
    """
    shuffled = np.random.default_rng(0).permutation(samples)
    tuning = math.ceil(TUNING_SHARE * samples)
    return shuffled[:tuning], shuffled[tuning:]


def fitting_and_rejection(samples: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of the samples to fit thresholds to, and of those that certify the rejection, shuffled."""
    shuffled = np.random.default_rng(1).permutation(samples)
    held_out = math.ceil(REJECTION_SHARE * samples)
    return shuffled[held_out:], shuffled[:held_out]
