"""What a user would do instead of early exits: the network cut off at an exit, trained alone under the same budget."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from calibration.operating_points import operating_points
from calibration.thresholds import Promise
from compile.material import Material
from compile.recipe import compile_bundle
from edge.bench import EarlyExit, Measured
from edge.bundle import Bundle
from edge.classifier import Classifier
from edge.console import say
from edge.protocols import Backend
from edge.training.recipe import train

NOTHING = Promise(limit=0.0, method="none")
"""A network with one exit has no thresholds to promise anything of."""


def truncated_bundles(material: Material, exits: int, folder: Path, precisions: Sequence[str]) -> list[Bundle]:
    """Train and compile the network truncated at each exit, with the same settings otherwise."""
    bundles = []
    for k in range(exits):
        say(f"training the network truncated at exit {k} alone, to compare with")
        settings = dataclasses.replace(material.checkpoint.settings, truncated_at=k)
        checkpoint = train(settings, folder / f"truncated-{k}", material.images)
        path = folder / f"truncated-{k}" / "bundle"
        bundles.append(compile_bundle(checkpoint, path, precisions=precisions, promise=NOTHING))
    return bundles


def alone(bundle: Bundle, precision: str, backend: Backend) -> EarlyExit:
    """Return a truncated network as a candidate to measure."""
    return EarlyExit(Classifier.from_bundle(bundle, precision, backend))


def matched(bundle: Bundle, rival: Bundle, precision: str, backend: Backend) -> EarlyExit:
    """Return the early-exit network at the accuracy of a truncated one, both judged on the threshold-fitting split.

    Thresholds are the cheapest ones at least as accurate as the rival there; where none is, the most accurate ones.
    """
    ours, theirs = bundle.scores(precision), rival.scores(precision)
    goal = float((theirs.scores.label[-1] == theirs.truth).mean())
    points = operating_points(ours.scores, ours.truth, [exit_.macs for exit_ in bundle.manifest.exits])
    reaching = [point for point in points if point.accuracy >= goal]
    best = (
        min(reaching, key=lambda point: point.cost_ratio) if reaching else max(points, key=lambda point: point.accuracy)
    )
    return EarlyExit(Classifier.from_bundle(bundle, precision, backend), best.thresholds)


def truncated_rows(measured: Mapping[str, Measured], exits: int) -> list[dict[str, float]]:
    """Return truncated networks beside early exits at their accuracy, measured as `truncated k` and `matched k`."""
    rows = []
    for k in range(exits):
        rival, ours = measured[f"truncated {k}"], measured[f"matched {k}"]
        rows.append(
            {
                "exit": k,
                "accuracy": rival.accuracy or 0.0,
                "latency_ms_mean": rival.latency_ms.mean,
                "early_exit_accuracy": ours.accuracy or 0.0,
                "early_exit_latency_ms_mean": ours.latency_ms.mean,
                "early_exit_speedup": rival.latency_ms.mean / ours.latency_ms.mean,
            }
        )
    return rows
