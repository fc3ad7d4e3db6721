"""A group of networks trained on the same images, judged: thresholds from their own split, then the test split once.

A group shares dataset, backbone and seed. Its networks are measured side by side, taking turns frame by frame.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.papers.gradcam import agreement_with_gradcam
from benchmarks.papers.grid import BACKBONE, name_of
from benchmarks.papers.metrics import confidence_of, decided
from calibration.operating_points import within_budget
from calibration.thresholds import RiskGuarantee
from compile.recipe import compile_bundle
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle.bundle import Bundle
from edge.console import track
from edge.decision import NEVER, Scores, decide, scores_from_logits
from edge.engines.onnxruntime import OnnxRuntime
from edge.inference.load import load_classifier
from edge.measure.bench import Candidate, EarlyExit, WholeNetwork, measure
from edge.training.checkpoint import Checkpoint, read_checkpoint
from edge.training.data import PreprocessedImages, batches
from edge.training.evaluate import answers_of
from edge.training.explain import consistency, faithfulness
from edge.training.settings import Settings
from edge.training.train import CHECKPOINT

BUDGETS = (0.3, 0.5, 0.7)
GUARANTEE = RiskGuarantee(limit=0.005, method="none")
"""As in the papers: what holds for the samples thresholds are fitted to."""
TIMED_FRAMES, EXPLAINED_IMAGES, EXPLAINED_BY_LARGE = 1000, 512, 32
PRECISION = "fp32"


@dataclass(frozen=True, slots=True)
class Judged:
    """One network of a group, before its latency is known."""

    run: Settings
    bundle: Bundle
    points: dict[str, tuple[float, ...]]
    """Thresholds by the name of the operating point."""
    test: Scores
    facts: dict[str, Any]
    """What holds whatever the thresholds: how good each exit is, and how well it explains itself."""


def judge(group: Sequence[Settings], folder: Path) -> list[dict[str, Any]]:
    """Return a row for each network of a group and each of its operating points."""
    checkpoints = [read_checkpoint(folder / name_of(run) / CHECKPOINT) for run in group]
    trained = load_trained_model(checkpoints[0])
    judged = [_judged(one, trained, folder / name_of(one.settings) / "bundle") for one in checkpoints]
    reference = next(one for one in judged if one.run.truncated_at is None)
    speedups = _speedups(judged, reference, trained)
    macs = sum(exit_.macs for exit_ in reference.bundle.manifest.exits)
    truth = trained.labels("test")
    return [
        _row(one, point, truth, macs) | {"speedup_measured": speedups[f"{index} {point}"]}
        for index, one in enumerate(judged)
        for point in one.points
    ]


def _judged(checkpoint: Checkpoint, trained: TrainedModel, path: Path) -> Judged:
    bundle = compile_bundle(checkpoint, path, precisions=(PRECISION,), guarantee=GUARANTEE)
    network = checkpoint.network()
    test = PreprocessedImages(trained.images, trained.splits["test"], checkpoint.input)
    answers = answers_of(network, track(batches(test, 500), f"judging {name_of(checkpoint.settings)}"))
    scores = scores_from_logits(answers.logits)
    explained = EXPLAINED_IMAGES if checkpoint.settings.backbone == BACKBONE else EXPLAINED_BY_LARGE
    images, _ = test.__getitems__(np.linspace(0, len(test) - 1, min(len(test), explained)).astype(int).tolist())
    found = consistency(answers.maps)
    facts: dict[str, Any] = {
        **confidence_of(scores, answers.labels),
        **dataclasses.asdict(faithfulness(network, images)),
        "gradcam_agreement": agreement_with_gradcam(network, images),
        "consistency_raw": found.raw,
        "consistency_centred": found.centred,
        "consistency_shuffled": found.shuffled,
        "map_entropy": found.entropy,
    }
    return Judged(checkpoint.settings, bundle, _operating_points(bundle), scores, facts)


def _operating_points(bundle: Bundle) -> dict[str, tuple[float, ...]]:
    """Return the thresholds to judge a network at, all from the threshold-fitting split."""
    found = bundle.scores(PRECISION)
    scores, truth = found.scores, found.truth
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    never = (NEVER,) * (len(macs) - 1)
    if len(macs) == 1:
        return {"alone": never}
    points = {"whole": never}
    points["drop 0.005"] = bundle.precision(PRECISION).thresholds.values
    for budget in BUDGETS:
        points[f"macs {budget}"] = within_budget(scores, truth, macs, budget).thresholds
    return points


def _speedups(judged: Sequence[Judged], reference: Judged, trained: TrainedModel) -> Mapping[str, float]:
    """Return how much faster than the whole network each operating point is, measured with exits really taken."""
    backend = OnnxRuntime()
    candidates: dict[str, Candidate] = {"whole": WholeNetwork(reference.bundle, PRECISION, backend)}
    for index, one in enumerate(judged):
        classifier = load_classifier(one.bundle, PRECISION, backend)
        for point, thresholds in one.points.items():
            candidates[f"{index} {point}"] = EarlyExit(classifier, thresholds)
    test = trained.splits["test"]
    chosen = test[np.linspace(0, len(test) - 1, min(len(test), TIMED_FRAMES)).astype(np.intp)]
    frames = [trained.images.frames[int(index)] for index in chosen]
    measured = measure(candidates, track(frames, "measuring"), None)
    whole = measured.pop("whole").latency_ms.mean
    return {name: whole / found.latency_ms.mean for name, found in measured.items()}


def _row(one: Judged, point: str, truth: np.ndarray, whole_macs: int) -> dict[str, Any]:
    exits = one.bundle.manifest.exits
    decisions = decide(one.test, np.asarray(one.points[point], dtype=np.float32))
    cost = np.cumsum([exit_.macs for exit_ in exits])
    run = one.run
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
        "thresholds": one.points[point],
        **decided(decisions, truth, len(exits)),
        "macs_ratio": float(cost[decisions.exit_index].mean() / whole_macs),
        **one.facts,
    }
