"""Evaluation of one network: thresholds are fitted to a split of their own, accuracy is that of the run's split."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.attention import attention_metrics
from benchmarks.papers.budgets import spend_budget
from benchmarks.papers.grid import CURVE, MAIN_TASK, MAPPED, Run
from benchmarks.papers.metrics import confidence_metrics, decision_metrics
from benchmarks.papers.tasks import TASKS
from edge.bundle.manifest import InputSpec
from edge.decision import decide, scores_from_logits
from edge.training.backbones import build_network
from edge.training.checkpoint import Checkpoint
from edge.training.data import batches
from edge.training.datasets.base import LabelledImages
from edge.training.evaluate import Evaluation, evaluate
from edge.training.loading import PreprocessedImages
from edge.training.network import MultiExitNetwork
from edge.training.splits import draw_splits

BATCH, MAX_EXPLAINED = 500, 512
"""Images at once, and images for metrics of attention maps that need many runs for each."""

Row = dict[str, Any]


class EvaluatedNetwork(NamedTuple):
    """Figures of a network, and which images of the split it classifies correctly at each point of its curve."""

    row: Row
    correct: NDArray[np.bool_]
    """Shape (points, samples)."""


def evaluate_run(run: Run, checkpoint: Checkpoint, images: LabelledImages) -> EvaluatedNetwork:
    """Evaluate a trained network at every budget; a network without early exits has a single point."""
    network, splits = checkpoint.network(), draw_splits(images, run.seed)

    def outputs(split: str) -> Evaluation:
        return evaluate(network, batches(PreprocessedImages(images, splits[split], checkpoint.input), BATCH))

    fitting, evaluated = outputs("thresholds"), outputs(run.split)
    fitting_scores, scores = scores_from_logits(fitting.logits), scores_from_logits(evaluated.logits)
    costs, whole = exit_macs(network, checkpoint.input), whole_macs(run, checkpoint)
    points, correct = [], []
    for budget in CURVE if len(costs) > 1 else (None,):
        thresholds: Sequence[float] = ()
        if budget is not None:
            thresholds = spend_budget(fitting_scores, fitting.labels, costs, budget)
        decisions = decide(scores, np.asarray(thresholds, dtype=np.float32))
        correct.append(decisions.label == evaluated.labels)
        macs_ratio = float(np.cumsum(costs)[decisions.exit_index].mean() / whole)
        metrics = decision_metrics(decisions, evaluated.labels, len(costs))
        points.append({"budget": budget, "macs_ratio": macs_ratio, **metrics})
    row = {
        **{name: getattr(run, name) for name in ("task", "method", "seed", "split", "epochs")},
        "samples": len(evaluated.labels),
        "exit_macs": costs,
        **confidence_metrics(scores, evaluated.labels),
        "points": points,
        "area": area(points),
    }
    if (run.task, run.split) == (MAIN_TASK, "test") and run.method in MAPPED:
        positions = np.linspace(0, len(evaluated.labels) - 1, MAX_EXPLAINED).astype(int).tolist()
        sample, _ = PreprocessedImages(images, splits[run.split], checkpoint.input).__getitems__(positions)
        row["maps"] = attention_metrics(network, evaluated, sample)
    return EvaluatedNetwork(rounded(row), np.stack(correct))


def area(points: Sequence[Row]) -> float | None:
    """Return the mean accuracy over the budgets of a curve, by the trapezoidal rule; None for a single point."""
    if len(points) < 2:
        return None
    budgets, accuracy = (np.array([point[name] for point in points]) for name in ("budget", "accuracy"))
    widths = np.diff(budgets)
    return float((accuracy[1:] + accuracy[:-1]) @ widths / (2 * widths.sum()))


def exit_macs(network: MultiExitNetwork, spec: InputSpec) -> list[int]:
    """Return the multiply-accumulates of each segment: a stage of a plain chain and its head."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, *spec.shape))
    flops = counter.get_flop_counts()
    stages = ["backbone"] if len(network.heads) == 1 else [f"backbone.stages.{k}" for k in range(len(network.heads))]
    return [
        sum(sum(flops[f"MultiExitNetwork.{module}"].values()) for module in (stage, f"heads.{k}")) // 2
        for k, stage in enumerate(stages)
    ]


def whole_macs(run: Run, checkpoint: Checkpoint) -> int:
    """Return the multiply-accumulates of the task's network with all exits."""
    backbone = TASKS[run.task].settings.backbone
    whole = build_network(backbone, checkpoint.input.channels, len(checkpoint.classes))
    return sum(exit_macs(whole, checkpoint.input))


def rounded(value: Any) -> Any:
    """Return a JSON value whose floats have five decimals: a tenth of a test image."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value
