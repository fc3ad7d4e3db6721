"""Made-up scores of early-exit networks, for tests of calibration and risk bounds."""

import numpy as np
from numpy.typing import NDArray

from edge.decision import NEVER, Scores

CLASSES = 4
Labels = NDArray[np.int64]


def random_scores(exits: int, samples: int, seed: int, levels: int | None = None) -> tuple[Scores, Labels]:
    """Return random scores and true labels; deeper exits and higher confidences are more often right.

    Args:
        exits: Number of exits.
        samples: Number of samples.
        seed: Seed of all randomness.
        levels: Number of confidence steps, to force ties; None for continuous confidences.
    """
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, CLASSES, samples)
    difficulty = generator.normal(size=samples)
    reach = np.linspace(0.5, 2, exits)[:, None]
    right = difficulty + generator.normal(0, 0.5, (exits, samples)) < reach
    margin = reach - difficulty + generator.normal(0, 0.7, (exits, samples))
    confidence = 1 / (1 + np.exp(-margin))
    if levels is not None:
        confidence = np.round(confidence * levels) / levels
    wrong = (truth + generator.integers(1, CLASSES, (exits, samples))) % CLASSES
    return Scores(confidence.astype(np.float32), np.where(right, truth, wrong).astype(np.int32)), truth


def segment_costs(exits: int) -> list[int]:
    """Return multiply-accumulates of segments, each more expensive than the one before."""
    return [2 + 3 * k for k in range(exits)]


def correct_labels(exits: int, samples: int) -> tuple[NDArray[np.int32], Labels]:
    """Return labels of every exit, all correct, and the true labels."""
    return np.ones((exits, samples), dtype=np.int32), np.ones(samples, dtype=np.int64)


def distinct_thresholds(confidence: NDArray[np.float32]) -> list[float]:
    """Return a threshold for every possible set of exiting samples."""
    return [0.0, *np.unique(confidence).tolist(), NEVER]
