"""The alternative to early exits: the network truncated at an exit and trained alone with the same settings."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibration.operating_points import ROUNDING, OperatingPoint, operating_points
from calibration.thresholds import RiskGuarantee
from compile.export import export_onnx
from compile.graph import total_macs
from compile.recipe import compile_bundle
from compile.trained_model import TrainedModel
from edge.bundle.bundle import Bundle
from edge.console import log
from edge.measure.bench import Measurement
from edge.training.backbones import build_network
from edge.training.train import train

STANDARD_ERRORS = 2
"""Accuracy that early exits must have more than a rival on one split, to have as much on another."""
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
    """Return thresholds to set beside a truncated network, both judged on the threshold-fitting split."""
    ours, theirs = bundle.scores(precision), rival.scores(precision)
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    points = operating_points(ours.scores, ours.truth, macs)
    accuracy = float((theirs.scores.label[-1] == theirs.truth).mean())
    margin = STANDARD_ERRORS * math.sqrt(accuracy * (1 - accuracy) / len(theirs.truth))
    return matching_point(points, accuracy + margin, macs_alone(rival) / sum(macs)).thresholds


def matching_point(points: Sequence[OperatingPoint], accuracy: float, cost_ratio: float) -> OperatingPoint:
    """Return the cheapest operating point of at least this accuracy that costs no more than a rival.

    Where there is none, return the most accurate point that costs no more.
    """
    affordable = [point for point in points if point.cost_ratio <= cost_ratio + ROUNDING]
    accurate = [point for point in affordable if point.accuracy >= accuracy]
    if accurate:
        return min(accurate, key=lambda point: (point.cost_ratio, -point.accuracy))
    return max(affordable, key=lambda point: (point.accuracy, -point.cost_ratio))


def macs_alone(bundle: Bundle) -> int:
    """Return the multiply-accumulates of a network with one exit."""
    (only,) = bundle.manifest.exits
    return only.macs


def whole_macs(trained: TrainedModel, exits: int) -> int:
    """Return the multiply-accumulates of the network without early exits, whose heads it does not have."""
    checkpoint = trained.checkpoint
    channels, classes = checkpoint.input.channels, len(checkpoint.classes)
    network = build_network(checkpoint.settings.backbone, channels, classes, truncated_at=exits - 1)
    return total_macs(export_onnx(network.eval(), checkpoint.input).model)


def truncated_row(
    exit_index: int, rival: Measurement, early_exit: Measurement, rival_cost: float, cost: Sequence[float]
) -> dict[str, float]:
    """Return a truncated network beside early exits at its accuracy.

    Args:
        exit_index: Where the network is truncated.
        rival: Its measurement.
        early_exit: That of early exits.
        rival_cost: Its multiply-accumulates, as a share of the whole network's.
        cost: Those of the chain up to each exit.
    """
    return {
        "exit": exit_index,
        "accuracy": rival.accuracy or 0.0,
        "macs_ratio": rival_cost,
        "latency_ms_mean": rival.latency_ms.mean,
        "early_exit_accuracy": early_exit.accuracy or 0.0,
        "early_exit_macs_ratio": float(np.dot(cost, early_exit.exit_shares)),
        "early_exit_latency_ms_mean": early_exit.latency_ms.mean,
        "early_exit_speedup": rival.latency_ms.mean / early_exit.latency_ms.mean,
    }
