"""Metrics of decisions and of confidence."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from edge.decision import Decisions, Scores

BINS = 15


def decision_metrics(decisions: Decisions, truth: NDArray[np.int64], exits: int) -> dict[str, Any]:
    """Return accuracy of all decisions and of each exit's share; precision, recall and F1 are macro means."""
    correct = decisions.label == truth
    precision, recall, f1, _ = precision_recall_fscore_support(truth, decisions.label, average="macro", zero_division=0)
    routed = [decisions.exit_index == k for k in range(exits)]
    return {
        "accuracy": float(correct.mean()),
        "macro_f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "exit_shares": [float(at_exit.mean()) for at_exit in routed],
        "routed_accuracy": [float(correct[at_exit].mean()) if at_exit.any() else None for at_exit in routed],
    }


def confidence_metrics(scores: Scores, truth: NDArray[np.int64]) -> dict[str, list[float]]:
    """Return each exit's accuracy, calibration error and failure-prediction AUROC on all samples."""
    correct = scores.label == truth
    per_exit = list(zip(scores.confidence, correct, strict=True))
    return {
        "exit_accuracy": [float(exit_correct.mean()) for exit_correct in correct],
        "ece": [calibration_error(*pair) for pair in per_exit],
        "auroc": [failure_auroc(*pair) for pair in per_exit],
    }


def calibration_error(confidence: NDArray[np.float32], correct: NDArray[np.bool_]) -> float:
    """Return the expected calibration error (Guo et al. 2017) with 15 bins of equal width."""
    bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    gaps = np.abs(np.bincount(bins, confidence - correct, minlength=BINS))
    return float(gaps.sum() / len(correct))


def failure_auroc(confidence: NDArray[np.float32], correct: NDArray[np.bool_]) -> float:
    """Return the AUROC of confidence as a predictor of correctness; 1 if all are correct or all are wrong."""
    return float(roc_auc_score(correct, confidence)) if 0 < correct.sum() < len(correct) else 1.0
