"""Evaluation of networks trained on the same images.

Thresholds are fitted to a split of their own; the test split is evaluated once. A group shares dataset, backbone and
seed; its networks are timed frame by frame, interleaved.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.papers.gradcam import agreement_with_gradcam
from benchmarks.papers.grid import BACKBONE, name_of
from benchmarks.papers.metrics import confidence_metrics, decision_metrics
from calibration.operating_points import within_budget
from calibration.thresholds import RiskGuarantee
from compile.recipe import compile_bundle
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle.bundle import Bundle
from edge.console import track
from edge.decision import NEVER, Scores, decide, scores_from_logits
from edge.engines.onnxruntime import OnnxRuntime
from edge.inference.load import load_classifier, load_whole_network
from edge.measure.bench import measure
from edge.training.checkpoint import Checkpoint, read_checkpoint
from edge.training.data import batches
from edge.training.evaluate import evaluate
from edge.training.explain import consistency, faithfulness
from edge.training.loading import PreprocessedImages
from edge.training.settings import Settings
from edge.training.train import CHECKPOINT

BUDGETS = (0.3, 0.5, 0.7)
GUARANTEE = RiskGuarantee(limit=0.005, method="none")
"""Empirical risk on the samples that thresholds are fitted to, as in the papers."""
MAX_TIMED_FRAMES = 1000
MAX_EXPLAINED, MAX_EXPLAINED_LARGE = 512, 32
"""Test images for metrics of attention maps; the second for larger backbones."""
PRECISION = "fp32"


@dataclass(frozen=True, slots=True)
class EvaluatedNetwork:
    """A network of a group, before its latency is measured."""

    run: Settings
    bundle: Bundle
    operating_points: dict[str, tuple[float, ...]]
    """Thresholds by name."""
    test: Scores
    metrics: dict[str, Any]
    """Metrics that do not depend on thresholds: those of each exit and of its attention maps."""


def evaluate_group(group: Sequence[Settings], folder: Path) -> list[dict[str, Any]]:
    """Return a row for each network of a group and each of its operating points."""
    checkpoints = [read_checkpoint(folder / name_of(run) / CHECKPOINT) for run in group]
    trained = load_trained_model(checkpoints[0])
    networks = [_evaluate(checkpoint, trained, folder) for checkpoint in checkpoints]
    whole = next(network.bundle for network in networks if network.run.truncated_at is None)
    points = [(network, point) for network in networks for point in network.operating_points]
    speedups = _measure_speedups(points, whole, trained)
    truth, whole_macs = trained.labels("test"), sum(exit_.macs for exit_ in whole.manifest.exits)
    return [
        _row(network, point, truth, whole_macs) | {"speedup_measured": speedup}
        for (network, point), speedup in zip(points, speedups, strict=True)
    ]


def _evaluate(checkpoint: Checkpoint, trained: TrainedModel, folder: Path) -> EvaluatedNetwork:
    """Compile a network and compute the metrics that do not depend on thresholds."""
    run, network = checkpoint.settings, checkpoint.network()
    bundle = compile_bundle(checkpoint, folder / name_of(run) / "bundle", precisions=(PRECISION,), guarantee=GUARANTEE)
    test = PreprocessedImages(trained.images, trained.splits["test"], checkpoint.input)
    evaluation = evaluate(network, track(batches(test, 500), f"evaluating {name_of(run)}"))
    scores = scores_from_logits(evaluation.logits)
    explained = min(len(test), MAX_EXPLAINED if run.backbone == BACKBONE else MAX_EXPLAINED_LARGE)
    images, _ = test.__getitems__(np.linspace(0, len(test) - 1, explained).astype(int).tolist())
    agreement = consistency(evaluation.maps)
    metrics: dict[str, Any] = {
        **confidence_metrics(scores, evaluation.labels),
        **dataclasses.asdict(faithfulness(network, images)),
        "gradcam_agreement": agreement_with_gradcam(network, images),
        "consistency_raw": agreement.raw,
        "consistency_centred": agreement.centred,
        "consistency_shuffled": agreement.shuffled,
        "map_entropy": agreement.entropy,
    }
    return EvaluatedNetwork(run, bundle, _operating_points(bundle), scores, metrics)


def _operating_points(bundle: Bundle) -> dict[str, tuple[float, ...]]:
    """Return thresholds by the name of the operating point, all fitted on the threshold-fitting split."""
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    never = (NEVER,) * (len(macs) - 1)
    if len(macs) == 1:
        return {"alone": never}
    recorded = bundle.scores(PRECISION)
    points = {"whole": never, "drop 0.005": bundle.precision(PRECISION).thresholds.values}
    for budget in BUDGETS:
        points[f"macs {budget}"] = within_budget(recorded.scores, recorded.truth, macs, budget).thresholds
    return points


def _measure_speedups(
    points: Sequence[tuple[EvaluatedNetwork, str]], whole: Bundle, trained: TrainedModel
) -> list[float]:
    """Return the speed-up of each operating point over the whole network."""
    backend = OnnxRuntime()
    loaded = {id(network): load_classifier(network.bundle, PRECISION, backend) for network, _ in points}
    classifiers = [
        load_whole_network(whole, PRECISION, backend),
        *(loaded[id(network)].with_thresholds(network.operating_points[point]) for network, point in points),
    ]
    frames = list(trained.frames("test", MAX_TIMED_FRAMES))
    with ExitStack() as stack:
        for classifier in classifiers:
            stack.enter_context(classifier)
        reference, *measurements = measure(classifiers, track(frames, "measuring"), None).classifiers
    return [reference.latency_ms.mean / measurement.latency_ms.mean for measurement in measurements]


def _row(network: EvaluatedNetwork, point: str, truth: np.ndarray, whole_macs: int) -> dict[str, Any]:
    run, exits = network.run, network.bundle.manifest.exits
    thresholds = network.operating_points[point]
    decisions = decide(network.test, np.asarray(thresholds, dtype=np.float32))
    cost = np.cumsum([exit_.macs for exit_ in exits])
    return {
        "dataset": run.dataset,
        "backbone": run.backbone,
        "regime": "truncated" if run.truncated_at is not None else run.regime,
        "truncated_at": run.truncated_at,
        "alpha": run.attention_weight,
        "attention_loss": run.attention_loss if run.attention_weight else None,
        "epochs": run.epochs,
        "seed": run.seed,
        "operating_point": point,
        "thresholds": thresholds,
        **decision_metrics(decisions, truth, len(exits)),
        "macs_ratio": float(cost[decisions.exit_index].mean() / whole_macs),
        **network.metrics,
    }
