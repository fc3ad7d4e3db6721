"""The alternative to early exits: the network truncated at an exit and trained alone with the same settings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from calibration.operating_points import operating_points
from calibration.thresholds import RiskGuarantee
from compile.recipe import compile_bundle
from compile.trained_model import TrainedModel
from edge.bundle.bundle import Bundle
from edge.console import log
from edge.measure.bench import Measurement
from edge.training.train import train

NO_GUARANTEE = RiskGuarantee(limit=0.0, method="none")
"""Guarantee for networks with one exit, which have no thresholds."""


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
    """Return thresholds at the accuracy of a truncated network, both measured on the threshold-fitting split.

    These are the cheapest thresholds that are at least as accurate there; if there are none, the most accurate ones.
    """
    ours, theirs = bundle.scores(precision), rival.scores(precision)
    goal = float((theirs.scores.label[-1] == theirs.truth).mean())
    points = operating_points(ours.scores, ours.truth, [exit_.macs for exit_ in bundle.manifest.exits])
    reaching = [point for point in points if point.accuracy >= goal]
    if reaching:
        return min(reaching, key=lambda point: point.cost_ratio).thresholds
    return max(points, key=lambda point: point.accuracy).thresholds


def truncated_row(exit_index: int, rival: Measurement, early_exit: Measurement) -> dict[str, float]:
    """Return a truncated network beside early exits at its accuracy."""
    return {
        "exit": exit_index,
        "accuracy": rival.accuracy or 0.0,
        "latency_ms_mean": rival.latency_ms.mean,
        "early_exit_accuracy": early_exit.accuracy or 0.0,
        "early_exit_latency_ms_mean": early_exit.latency_ms.mean,
        "early_exit_speedup": rival.latency_ms.mean / early_exit.latency_ms.mean,
    }
