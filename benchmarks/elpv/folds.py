"""The networks of a fold: trained, compiled, and measured on its test images."""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.attention import Metrics, attention_metrics
from benchmarks.truncated import NO_GUARANTEE, macs_alone
from calibration.operating_points import within_budget
from calibration.thresholds import RiskGuarantee
from compile.recipe import compile_bundle
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle.bundle import Bundle
from edge.console import log
from edge.decision import NEVER, Decisions, Scores, decide
from edge.engines.onnxruntime import OnnxRuntime
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.measure.bench import measure
from edge.training.data import batches
from edge.training.evaluate import evaluate
from edge.training.loading import PreprocessedImages
from edge.training.settings import Settings
from edge.training.train import train

EARLY_EXITS, UNGUIDED, ALONE = "early exits", "early exits without EGT", "alone"
SETTINGS = Settings(
    dataset="elpv",
    backbone="timm:tf_efficientnet_lite0",
    pretrained="efficientnet-lite",
    distillation_weight=1.0,
    batch_size=32,
    epochs=8,
)
NETWORKS = {
    EARLY_EXITS: SETTINGS,
    UNGUIDED: dataclasses.replace(SETTINGS, attention_weight=0.0),
    ALONE: dataclasses.replace(SETTINGS, truncated_at=2),
}
PRECISION = "fp32"
GUARANTEE = RiskGuarantee(limit=0.01, method="expectation")
"""Few images prove little: about 315 fit the thresholds of a fold."""
BUDGETS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Multiply-accumulates of the curve, as shares of the whole network's."""
MAX_TIMED_FRAMES, MAX_EXPLAINED, BATCH = 200, 128, 64

Row = dict[str, Any]


def fold_rows(fold: int, seed: int, folder: Path) -> list[Row]:
    """Train and compile the networks of a fold, measure them in turns, and return a row for each."""
    path = folder / f"seed-{seed}" / f"fold-{fold}"
    trained, bundles = {}, {}
    for name, settings in NETWORKS.items():
        log(f"fold {fold}: {name}")
        checkpoint = train(dataclasses.replace(settings, fold=fold, seed=seed), path / name.replace(" ", "-"))
        guarantee = GUARANTEE if settings.truncated_at is None else NO_GUARANTEE
        output = path / f"{name.replace(' ', '-')}-bundle"
        bundles[name] = compile_bundle(checkpoint, output, precisions=(PRECISION,), guarantee=guarantee)
        trained[name] = load_trained_model(checkpoint)
    frames = list(trained[ALONE].frames("test", MAX_TIMED_FRAMES))
    latencies_ms = mean_latencies_ms(bundles.values(), frames)
    whole = macs_alone(bundles[ALONE])
    return [
        {"fold": fold, "seed": seed, "network": name, "latency_ms": latency_ms}
        | evaluated(bundles[name], trained[name], whole)
        for name, latency_ms in zip(NETWORKS, latencies_ms, strict=True)
    ]


def mean_latencies_ms(bundles: Iterable[Bundle], frames: Sequence[Any]) -> list[float]:
    """Return each network's mean latency at its fitted thresholds, on frames that all take in turns."""
    backend = OnnxRuntime()
    classifiers = [load_classifier(bundle, PRECISION, backend) for bundle in bundles]
    with contextlib.ExitStack() as stack:
        for classifier in classifiers:
            stack.enter_context(classifier)
        return [measured.latency_ms.mean for measured in measure(classifiers, frames, None).classifiers]


def evaluated(bundle: Bundle, trained: TrainedModel, whole_macs: int) -> Row:
    """Return figures of the test images, at the fitted thresholds and at each budget, and of attention maps.

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
        "attention": attention(trained) if len(costs) > 1 else {},
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


def attention(trained: TrainedModel) -> Metrics:
    """Return the metrics of the attention maps for the test images."""
    network = trained.checkpoint.network()
    test = PreprocessedImages(trained.images, trained.splits["test"], trained.checkpoint.input)
    explained = torch.from_numpy(trained.inputs(trained.sample_indices("test", MAX_EXPLAINED)))
    return attention_metrics(network, evaluate(network, batches(test, BATCH)), explained)
