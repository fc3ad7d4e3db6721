"""The alternative to early exits: the network truncated at an exit and trained alone with the same settings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibration.operating_points import ROUNDING, OperatingPoint, operating_points
from calibration.thresholds import RiskGuarantee
from compile.recipe import compile_bundle
from compile.trained_model import TrainedModel
from edge.bundle.bundle import Bundle
from edge.console import log
from edge.measure.bench import Measurement
from edge.training.train import train

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


def matched_thresholds(bundle: Bundle, rival: Bundle, exit_index: int, precision: str) -> tuple[float, ...]:
    """Return thresholds to set beside the network truncated at an exit, both judged on the threshold-fitting split."""
    ours, theirs = bundle.scores(precision), rival.scores(precision)
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    points = operating_points(ours.scores, ours.truth, macs)
    accuracy = float((theirs.scores.label[-1] == theirs.truth).mean())
    return dominating_point(points, accuracy, sum(macs[: exit_index + 1]) / sum(macs)).thresholds


def dominating_point(points: Sequence[OperatingPoint], accuracy: float, cost_ratio: float) -> OperatingPoint:
    """Return the operating point that dominates a rival by the largest area.

    The area is `accuracy gained * cost saved`. A point of equal accuracy on one split has lower accuracy on every other
    split; the largest area keeps a distance in both. Where no point is at least as accurate as the rival at no higher
    cost, return the most accurate one of those that cost no more.
    """
    affordable = [point for point in points if point.cost_ratio <= cost_ratio + ROUNDING]
    dominating = [point for point in affordable if point.accuracy >= accuracy]
    if not dominating:
        return max(affordable, key=lambda point: (point.accuracy, -point.cost_ratio))
    return max(
        dominating,
        key=lambda point: ((point.accuracy - accuracy) * (cost_ratio - point.cost_ratio), point.accuracy),
    )


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
