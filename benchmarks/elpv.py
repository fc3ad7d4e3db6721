"""Photographs of solar cells, cross-validated: EfficientNet-Lite0 with three exits against the same network alone."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import add_output, command_line, write_result
from benchmarks.truncated import NO_GUARANTEE, macs_alone
from calibration.operating_points import within_budget
from calibration.thresholds import RiskGuarantee
from compile.recipe import compile_bundle
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle.bundle import Bundle
from edge.console import PASSED, log, print_table
from edge.decision import NEVER, Decisions, Scores, decide
from edge.engines.onnxruntime import OnnxRuntime
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.measure.bench import measure
from edge.system import conditions, with_end
from edge.training.datasets.elpv import NOTES
from edge.training.settings import Settings
from edge.training.splits import FOLDS
from edge.training.train import train

EARLY_EXITS = Settings(
    dataset="elpv",
    backbone="timm:tf_efficientnet_lite0",
    pretrained="efficientnet-lite",
    distillation_weight=1.0,
    batch_size=32,
    epochs=8,
    learning_rate=5e-3,
)
ALONE = dataclasses.replace(EARLY_EXITS, truncated_at=2)
NETWORKS = {"early exits": EARLY_EXITS, "alone": ALONE}
PRECISION = "fp32"
GUARANTEE = RiskGuarantee(limit=0.01, method="expectation")
"""Few images prove little: about 315 fit the thresholds of a fold."""
BUDGETS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Multiply-accumulates of the curve, as shares of the whole network's."""
RESAMPLES, INTERVAL = 10_000, (2.5, 97.5)
MAX_TIMED_FRAMES = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    parser.add_argument("--seed", type=int, default=0, help="seed of folds and networks (default: %(default)s)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/elpv"),
        metavar="DIR",
        help="folder of the networks; finished ones in it are kept (default: %(default)s)",
    )
    add_output(parser, "runs/elpv.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Train both networks on each fold, compare them over the folds so far and write the result.

    Raises:
        DataError: the photographs are not installed.
    """
    before, rows = conditions(), []
    for fold in range(FOLDS):
        rows += fold_rows(fold, arguments.seed, arguments.folder)
        result = {"notes": NOTES, "comparison": compare(rows), "folds": rows}
        write_result(arguments.output, result | {"command": command_line(), "conditions": with_end(before)})
        print_result(result)
    log(f"wrote {arguments.output}")
    return PASSED


def fold_rows(fold: int, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Train and compile both networks on a fold, measure them in turns, and return a row for each."""
    path = folder / f"seed-{seed}" / f"fold-{fold}"
    trained, bundles = {}, {}
    for name, settings in NETWORKS.items():
        log(f"fold {fold}: {name}")
        checkpoint = train(dataclasses.replace(settings, fold=fold, seed=seed), path / name.replace(" ", "-"))
        guarantee = GUARANTEE if settings.truncated_at is None else NO_GUARANTEE
        output = path / f"{name.replace(' ', '-')}-bundle"
        bundles[name] = compile_bundle(checkpoint, output, precisions=(PRECISION,), guarantee=guarantee)
        trained[name] = load_trained_model(checkpoint)
    speedup = measured_speedup(bundles, trained["early exits"])
    whole = macs_alone(bundles["alone"])
    return [
        {"fold": fold, "seed": seed, "network": name, **evaluated(bundles[name], trained[name], whole)}
        | ({"speedup": speedup} if name == "early exits" else {})
        for name in NETWORKS
    ]


def measured_speedup(bundles: dict[str, Bundle], trained: TrainedModel) -> float:
    """Return how many times as fast early exits are as the network alone, on test images that both take in turns."""
    backend, frames = OnnxRuntime(), list(trained.frames("test", MAX_TIMED_FRAMES))
    early, alone = (load_classifier(bundles[name], PRECISION, backend) for name in NETWORKS)
    with early, alone:
        ours, rival = measure([early, alone], frames, None).classifiers
    return rival.latency_ms.mean / ours.latency_ms.mean


def evaluated(bundle: Bundle, trained: TrainedModel, whole_macs: int) -> dict[str, Any]:
    """Return figures of the test images, at the fitted thresholds and at each budget.

    Costs are shares of the network without early exits, which has `whole_macs`.
    `correct` has a digit for each test image, in the order of the dataset: 1 if the prediction is right.
    """
    truth, costs = trained.labels("test"), [exit_.macs / whole_macs for exit_ in bundle.manifest.exits]
    scores = record(load_classifier(bundle, PRECISION, OnnxRuntime()), trained.frames("test")).scores
    thresholds = bundle.precision(PRECISION).thresholds.values if len(costs) > 1 else ()
    decisions = decide(scores, np.asarray(thresholds, dtype=np.float32))
    return {
        "correct": "".join(map(str, (decisions.label == truth).astype(int))),
        **cost_and_accuracy(decisions, truth, costs),
        "exit_accuracy": [float((labels == truth).mean()) for labels in scores.label],
        "exit_shares": [float((decisions.exit_index == k).mean()) for k in range(len(costs))],
        "thresholds": thresholds,
        "curve": curve(bundle, scores, truth, costs) if len(costs) > 1 else [],
    }


def curve(bundle: Bundle, test: Scores, truth: NDArray[np.int64], costs: Sequence[float]) -> list[dict[str, float]]:
    """Return cost and accuracy on the test images with thresholds fitted to each budget on their own split."""
    fitting = bundle.scores(PRECISION)
    points = []
    for budget in BUDGETS:
        thresholds = within_budget(fitting.scores, fitting.truth, costs, budget / sum(costs)).thresholds
        decisions = decide(test, np.asarray(thresholds, dtype=np.float32))
        points.append({"budget": budget, **cost_and_accuracy(decisions, truth, costs)})
    whole = decide(test, np.full(len(costs) - 1, NEVER, dtype=np.float32))
    return [*points, {"budget": 1.0, **cost_and_accuracy(whole, truth, costs)}]


def cost_and_accuracy(decisions: Decisions, truth: NDArray[np.int64], costs: Sequence[float]) -> dict[str, float]:
    """Return the mean cost and the accuracy; `costs` are those of each segment."""
    return {
        "macs_ratio": float(np.cumsum(costs)[decisions.exit_index].mean()),
        "accuracy": float((decisions.label == truth).mean()),
    }


def compare(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare both networks over the images of all folds, with a paired bootstrap interval of the difference."""
    correct = {
        name: np.array([int(digit) for row in rows if row["network"] == name for digit in row["correct"]])
        for name in NETWORKS
    }
    difference = correct["early exits"] - correct["alone"]
    early = [row for row in rows if row["network"] == "early exits"]
    return {
        "folds": len(early),
        "images": len(difference),
        "accuracy": {name: float(values.mean()) for name, values in correct.items()},
        "difference": float(difference.mean()),
        "interval": bootstrap_interval(difference),
        "macs_ratio": float(np.mean([row["macs_ratio"] for row in early])),
        "speedup": [row["speedup"] for row in early],
        "curve": [
            {key: float(np.mean([point[key] for point in points])) for key in points[0]}
            for points in zip(*(row["curve"] for row in early), strict=True)
        ],
    }


def bootstrap_interval(difference: NDArray[np.int64]) -> list[float]:
    """Return the percentile bootstrap interval of the mean of paired differences."""
    values, counts = np.unique(difference, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(difference), counts / len(difference), RESAMPLES)
    return [float(bound) for bound in np.percentile(drawn @ values / len(difference), INTERVAL)]


def print_result(result: dict[str, Any]) -> None:
    """Print the comparison, the curve and the notes on the images."""
    comparison = result["comparison"]
    low, high = comparison["interval"]
    print_table(
        f"{comparison['images']} photographs of solar cells, the test images of {comparison['folds']} of {FOLDS} folds",
        ("network", "accuracy", "mean MACs", "speed-up"),
        [
            ("EfficientNet-Lite0 alone", f"{comparison['accuracy']['alone']:.2%}", "100%", "1.00x"),
            (
                "with three exits",
                f"{comparison['accuracy']['early exits']:.2%}",
                f"{comparison['macs_ratio']:.0%}",
                f"{np.mean(comparison['speedup']):.2f}x",
            ),
        ],
    )
    print(f"difference {comparison['difference']:+.2%}, 95 % interval {low:+.2%} to {high:+.2%} (paired bootstrap)")
    columns, points = ("budget", "mean MACs", "accuracy"), comparison["curve"]
    print_table("thresholds fitted to a budget", columns, [tuple(f"{v:.1%}" for v in p.values()) for p in points])
    for note in result["notes"]:
        print(note)
