"""Temperature scaling: calibrates each exit's softmax probabilities."""

import math

import numpy as np
from numpy.typing import NDArray

MAX_TEMPERATURE = 50.0
"""Temperatures are fitted between its inverse and this value. Beyond, probabilities are nearly uniform, or 0 and 1."""
STEPS = 24
"""Bisections, which leave a relative error below a millionth."""
CHUNK_VALUES = 1 << 16
"""Logits in float64 at a time, so that they stay in the cache."""


def fit_temperatures(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> tuple[float, ...]:
    """Return the temperature of each exit that minimises its negative log likelihood (Guo et al. 2017).

    Args:
        logits: Shape (exits, samples, classes).
        truth: True labels, shape (samples,).
    """
    return tuple(1 / _inverse_temperature(exit_logits, truth) for exit_logits in logits)


def _inverse_temperature(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """Minimise the negative log likelihood, which is convex in `1 / T`, by bisection of its derivative."""
    is_finite = np.isfinite(logits).all(axis=1)
    if not is_finite.all():
        logits, truth = logits[is_finite], truth[is_finite]
    if not len(truth):
        return 1.0
    low, high = 1 / MAX_TEMPERATURE, MAX_TEMPERATURE
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _nll_derivative(logits, truth, middle) >= 0 else (middle, high)
    return math.sqrt(low * high)


def _nll_derivative(logits: NDArray[np.float32], truth: NDArray[np.int64], inverse_temperature: float) -> float:
    """Return the derivative of the negative log likelihood by `1 / T`: the mean logit by softmax, minus the true one's.

    It is summed over the samples.
    """
    derivative, rows = 0.0, max(1, CHUNK_VALUES // logits.shape[1])
    for start in range(0, len(truth), rows):
        chunk = logits[start : start + rows].astype(np.float64)
        chunk -= chunk.max(axis=1, keepdims=True)
        weights = np.exp(inverse_temperature * chunk)
        means = np.einsum("ij,ij->i", weights, chunk) / weights.sum(axis=1)
        derivative += float((means - chunk[np.arange(len(chunk)), truth[start : start + rows]]).sum())
    return derivative
