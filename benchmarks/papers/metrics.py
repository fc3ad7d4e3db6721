"""What is said of decisions and of confidence."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from edge.decision import Decisions, Scores

BINS = 15


def decided(decisions: Decisions, truth: NDArray[np.int64], exits: int) -> dict[str, Any]:
    """Return how good the answers are, all of them and those of each exit; precision, recall and F1 are macro means."""
    right = decisions.label == truth
    precision, recall, f1, _ = precision_recall_fscore_support(truth, decisions.label, average="macro", zero_division=0)
    routed = [decisions.exit_index == k for k in range(exits)]
    return {
        "accuracy": float(right.mean()),
        "macro_f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "exit_shares": [float(taken.mean()) for taken in routed],
        "routed_accuracy": [float(right[taken].mean()) if taken.any() else None for taken in routed],
    }


def confidence_of(scores: Scores, truth: NDArray[np.int64]) -> dict[str, list[float]]:
    """Return each exit's accuracy on all samples, and what its confidence is worth."""
    right = scores.label == truth
    return {
        "exit_accuracy": [float(one.mean()) for one in right],
        "ece": [calibration_error(c, r) for c, r in zip(scores.confidence, right, strict=True)],
        "auroc": [failure_auroc(c, r) for c, r in zip(scores.confidence, right, strict=True)],
    }


def calibration_error(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error (Guo et al. 2017): 15 bins of equal width, weighed by their samples."""
    bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    gaps = np.abs(np.bincount(bins, confidence - right, minlength=BINS))
    return float(gaps.sum() / len(right))


def failure_auroc(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Return how well confidence ranks right answers before wrong ones; 1 where all answers are of one kind."""
    return float(roc_auc_score(right, confidence)) if 0 < right.sum() < len(right) else 1.0
