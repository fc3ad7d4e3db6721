"""The temperature that makes an exit's probabilities honest."""

import numpy as np
from numpy.typing import NDArray

MAX_TEMPERATURE = 50.0
"""And the inverse of the coldest: beyond that a probability says nothing, or everything."""
STEPS = 60
GOLDEN = (5**0.5 - 1) / 2


def fit_temperatures(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> tuple[float, ...]:
    """Return each exit's temperature (Guo et al. 2017): the one that makes the true labels most likely.

    Args:
        logits: Shape (exits, samples, classes).
        truth: True classes, shape (samples,).
    """
    return tuple(1 / _inverse_temperature(exit_logits.astype(np.float64), truth) for exit_logits in logits)


def _inverse_temperature(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Return `1 / T` that minimises the mean negative log likelihood, which is convex in it, by golden sections."""
    numbers = np.isfinite(logits).all(axis=1)  # a sample without numbers says nothing of the others
    logits, truth = logits[numbers], truth[numbers]
    if not len(truth):
        return 1.0
    low, high = 1 / MAX_TEMPERATURE, MAX_TEMPERATURE
    for _ in range(STEPS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if _nll(logits * left, truth) <= _nll(logits * right, truth):
            high = right
        else:
            low = left
    return (low + high) / 2


def _nll(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    likelihood = shifted[np.arange(len(truth)), truth] - np.log(np.exp(shifted).sum(axis=1))
    return -float(likelihood.mean())
