"""Accuracy and agreement of each precision on the test split, and the time to compile and build it."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import add_output, command_line, write_result
from calibration.arguments import add_guarantee_arguments, guarantee_from_arguments
from calibration.thresholds import RiskGuarantee
from compile.precisions import PRECISIONS
from compile.recipe import compile_bundle
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle.bundle import Bundle
from edge.console import PASSED, log, print_table, track
from edge.decision import Decisions, Scores, decide, validate_thresholds
from edge.engines import backend_named
from edge.frames.base import Frame
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.system import conditions
from edge.training.checkpoint import read_checkpoint

TARGET = "sm89"
MAX_SAMPLES = 5000


@dataclass(frozen=True, slots=True)
class EvaluatedPrecision:
    """One precision's scores and decisions for the test samples."""

    scores: Scores
    decisions: Decisions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    parser.add_argument(
        "checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="checkpoint.pt of `python -m edge.training`"
    )
    add_output(parser, "runs/quantisation", "DIR")
    add_guarantee_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Compile trained networks in every precision and compare."""
    run_quantisation(arguments.checkpoints, arguments.output, guarantee_from_arguments(arguments))
    return PASSED


def run_quantisation(checkpoints: Sequence[Path], folder: Path, guarantee: RiskGuarantee) -> None:
    """Compile each checkpoint in every precision and write `quantisation.json` into `folder`."""
    rows: list[dict[str, Any]] = []
    seconds: dict[str, dict[str, float]] = {}
    for path in checkpoints:
        checkpoint = read_checkpoint(path)
        name = f"{checkpoint.settings.dataset}-{checkpoint.settings.backbone}"
        started = perf_counter()
        bundle = compile_bundle(checkpoint, folder / name, guarantee=guarantee, precisions=PRECISIONS)
        seconds[name] = {"compile": perf_counter() - started, **build_seconds(bundle)}
        rows += measure_precisions(name, bundle, load_trained_model(checkpoint))
    output = folder / "quantisation.json"
    result = {"command": command_line(), "conditions": conditions(), "seconds": seconds, "rows": rows}
    write_result(output, result)
    print_rows(rows)
    for name, times in seconds.items():
        log(f"{name}: " + ", ".join(f"{step} {value:.1f} s" for step, value in times.items()))
    log(f"wrote every row to {output}")


def build_seconds(bundle: Bundle) -> dict[str, float]:
    """Return the seconds that `edge build` takes with an empty cache, and with a full cache."""
    command = [sys.executable, "-m", "edge", "build", str(bundle.path), "--backend", "tensorrt-rtx", "--target", TARGET]
    with tempfile.TemporaryDirectory() as cache:
        times = [perf_counter()]
        for _ in range(2):
            subprocess.run(command, env={**os.environ, "EDGE_CACHE": cache}, stdout=subprocess.DEVNULL, check=True)
            times.append(perf_counter())
    first, again = np.diff(times)
    return {f"tensorrt-rtx {TARGET}": float(first), "again": float(again)}


def measure_precisions(network: str, bundle: Bundle, trained: TrainedModel) -> list[dict[str, Any]]:
    """Return a row for each precision and exit."""
    frames, truth = list(trained.frames("test", MAX_SAMPLES)), trained.labels("test", MAX_SAMPLES)
    evaluated = {precision: evaluate(bundle, precision, frames) for precision in bundle.manifest.precisions}
    rows = []
    for precision, values in evaluated.items():
        spec = bundle.precision(precision)
        for k, segment in enumerate(spec.segments):
            row = {"network": network, "precision": precision, "exit": k, "samples": len(truth)}
            row |= compare_exit(k, values, evaluated["fp32"], truth)
            rows.append(row | {"int8_macs_share": segment.int8_macs_share, "notes": spec.notes})
    return rows


def evaluate(bundle: Bundle, precision: str, frames: Sequence[Frame]) -> EvaluatedPrecision:
    """Record one precision's scores, and decide with its own thresholds."""
    with load_classifier(bundle, precision, backend_named("onnxruntime")) as classifier:
        scores = record(classifier, track(frames, f"{bundle.manifest.name} in {precision}")).scores
    thresholds = validate_thresholds(bundle.precision(precision).thresholds.values, len(bundle.manifest.exits))
    return EvaluatedPrecision(scores, decide(scores, thresholds))


def compare_exit(
    k: int, evaluated: EvaluatedPrecision, fp32: EvaluatedPrecision, truth: NDArray[Any]
) -> dict[str, float]:
    """Compare exit k with the same exit in fp32."""
    label, fp32_label = evaluated.scores.label[k], fp32.scores.label[k]
    exit_index, fp32_exit_index = evaluated.decisions.exit_index, fp32.decisions.exit_index
    return {
        "accuracy": float((label == truth).mean()),
        "accuracy_fp32": float((fp32_label == truth).mean()),
        "top1_agreement": float((label == fp32_label).mean()),
        "exit_index_agreement": float((exit_index == fp32_exit_index).mean()),
        "exit_share": float((exit_index == k).mean()),
        "exit_share_fp32": float((fp32_exit_index == k).mean()),
        "early_exit_accuracy": float((evaluated.decisions.label == truth).mean()),
    }


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print a line per row; differences from fp32 are in parentheses."""
    columns = ("network", "precision", "exit", "accuracy", "top-1 agrees", "exit agrees", "share", "int8 MACs")
    title = "precisions on the test split, each with its own thresholds"
    print_table(title, columns, [format_row(row) for row in rows])


def format_row(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of one line."""
    return (
        row["network"],
        row["precision"],
        str(row["exit"]),
        f"{row['accuracy']:.2%} ({(row['accuracy'] - row['accuracy_fp32']) * 100:+.2f})",
        f"{row['top1_agreement']:.2%}",
        f"{row['exit_index_agreement']:.2%}",
        f"{row['exit_share']:.1%} ({(row['exit_share'] - row['exit_share_fp32']) * 100:+.1f})",
        f"{row['int8_macs_share']:.1%}",
    )
