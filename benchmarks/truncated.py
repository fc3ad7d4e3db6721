"""The alternative to early exits: the network truncated at an exit, trained alone with the same settings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.operating_points import operating_points
from calibration.thresholds import RiskGuarantee
from compile.recipe import compile_bundle
from compile.trained_model import TrainedModel
from edge.bundle.bundle import Bundle
from edge.console import log
from edge.decision import decide
from edge.measure.bench import Measurement
from edge.training.train import train

Z_95 = 1.645
"""Quantile of the normal distribution."""
NO_GUARANTEE = RiskGuarantee(limit=0.0, method="none")
"""For networks with one exit, which have no thresholds."""


def truncated_bundles(trained: TrainedModel, exits: int, folder: Path, precisions: Sequence[str]) -> list[Bundle]:
    """Train and compile the network truncated at each exit, with the same settings otherwise."""
    bundles = []
    for k in range(exits):
        log(f"training the network truncated at exit {k} alone, to compare with")
        settings = dataclasses.replace(trained.checkpoint.settings, truncated_at=k)
        checkpoint = train(settings, folder / f"truncated-{k}", trained.images)
        path = folder / f"truncated-{k}" / "bundle"
        bundles.append(compile_bundle(checkpoint, path, precisions=precisions, guarantee=NO_GUARANTEE))
    return bundles


def matched_thresholds(bundle: Bundle, rival: Bundle, precision: str) -> tuple[float, ...]:
    """Return thresholds at the accuracy of a truncated network, both judged on the threshold-fitting split.

    They are the cheapest ones shown to be at least as accurate as the rival on the same samples (one-sided 95 % bound
    of the mean difference): equal accuracy on this split would be lower accuracy on every other test split. Where none
    is shown to be, they are the most accurate ones.
    """
    ours, theirs = bundle.scores(precision), rival.scores(precision)
    is_correct = theirs.scores.label[-1] == theirs.truth
    points = operating_points(ours.scores, ours.truth, [exit_.macs for exit_ in bundle.manifest.exits])
    reaching = []
    for point in points:
        decisions = decide(ours.scores, np.array(point.thresholds, dtype=np.float32))
        if is_as_accurate(decisions.label == ours.truth, is_correct):
            reaching.append(point)
    if reaching:
        return min(reaching, key=lambda point: point.cost_ratio).thresholds
    return max(points, key=lambda point: point.accuracy).thresholds


def is_as_accurate(correct: NDArray[np.bool_], rival_correct: NDArray[np.bool_]) -> bool:
    """Check that the accuracy on paired samples is at least the rival's with 95 % confidence."""
    difference = np.subtract(correct, rival_correct, dtype=np.float64)
    error = float(difference.std()) / len(difference) ** 0.5
    return bool(difference.mean() >= Z_95 * error)


def truncated_row(
    exit_index: int, rival: Measurement, early_exit: Measurement, cost: Sequence[float]
) -> dict[str, float]:
    """Return a truncated network beside early exits at its accuracy; `cost` is the share of MACs up to each exit."""
    return {
        "exit": exit_index,
        "accuracy": rival.accuracy or 0.0,
        "macs_ratio": cost[exit_index],
        "latency_ms_mean": rival.latency_ms.mean,
        "early_exit_accuracy": early_exit.accuracy or 0.0,
        "early_exit_macs_ratio": float(np.dot(cost, early_exit.exit_shares)),
        "early_exit_latency_ms_mean": early_exit.latency_ms.mean,
        "early_exit_speedup": rival.latency_ms.mean / early_exit.latency_ms.mean,
    }
