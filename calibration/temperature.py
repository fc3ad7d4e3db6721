"""Temperature scaling: calibrates each exit's softmax probabilities."""

import numpy as np
from numpy.typing import NDArray

MAX_TEMPERATURE = 50.0
"""Temperatures are fitted between its inverse and this value. Beyond, probabilities are nearly uniform, or 0 and 1."""
STEPS = 60
INVERSE_GOLDEN_RATIO = (5**0.5 - 1) / 2


def fit_temperatures(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> tuple[float, ...]:
    """Return the temperature of each exit that minimises its negative log likelihood (Guo et al. 2017).

    Args:
        logits: Shape (exits, samples, classes).
        truth: True labels, shape (samples,).
    """
    return tuple(1 / _inverse_temperature(exit_logits.astype(np.float64), truth) for exit_logits in logits)


def _inverse_temperature(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Minimise the negative log likelihood, which is convex in `1 / T`, by golden-section search."""
    is_finite = np.isfinite(logits).all(axis=1)
    logits, truth = logits[is_finite], truth[is_finite]
    if not len(truth):
        return 1.0
    low, high = 1 / MAX_TEMPERATURE, MAX_TEMPERATURE
    for _ in range(STEPS):
        left = high - INVERSE_GOLDEN_RATIO * (high - low)
        right = low + INVERSE_GOLDEN_RATIO * (high - low)
        if _nll(logits * left, truth) <= _nll(logits * right, truth):
            high = right
        else:
            low = left
    return (low + high) / 2


def _nll(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Return the mean negative log likelihood of the true labels."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_likelihood = shifted[np.arange(len(truth)), truth] - np.log(np.exp(shifted).sum(axis=1))
    return -float(log_likelihood.mean())
