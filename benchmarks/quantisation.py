"""What each precision does to trained networks, on their test splits, and how long it takes to get there."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.results import command_line, write_result
from calibration.thresholds import RiskGuarantee
from compile.precisions import PRECISIONS
from compile.recipe import compile_bundle
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle.bundle import Bundle
from edge.console import log, print_table, track
from edge.decision import Decisions, Scores, decide, validate_thresholds
from edge.engines import backend_named
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.system import conditions
from edge.training.checkpoint import read_checkpoint

TARGET = "sm89"
MOST_IMAGES = 5000


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
        rows += rows_of(name, bundle, load_trained_model(checkpoint))
    result = {"command": command_line(), "conditions": conditions(), "seconds": seconds, "rows": rows}
    write_result(folder / "quantisation.json", result)
    columns = ("network", "precision", "exit", "accuracy", "top-1 as fp32", "same exit", "share", "int8 MACs")
    print_table("precisions on the test split, each with its own thresholds", columns, [cells(row) for row in rows])
    for name, taken in seconds.items():
        log(f"{name}: " + ", ".join(f"{what} {value:.1f} s" for what, value in taken.items()))
    log(f"every row is in {folder / 'quantisation.json'}")


def build_seconds(bundle: Bundle) -> dict[str, float]:
    """Return how long `edge build` takes with an empty cache, and again."""
    command = [sys.executable, "-m", "edge", "build", str(bundle.path), "--backend", "tensorrt-rtx", "--target", TARGET]
    with tempfile.TemporaryDirectory() as cache:
        times = [perf_counter()]
        for _ in range(2):
            subprocess.run(command, env={**os.environ, "EDGE_CACHE": cache}, stdout=subprocess.DEVNULL, check=True)
            times.append(perf_counter())
    built, again = np.diff(times)
    return {f"tensorrt-rtx {TARGET}": float(built), "again": float(again)}


def rows_of(name: str, bundle: Bundle, trained: TrainedModel) -> list[dict[str, Any]]:
    """Return a row for each precision and exit."""
    frames, truth = list(trained.frames("test", MOST_IMAGES)), trained.labels("test", MOST_IMAGES)
    found = {precision: _answers(bundle, precision, frames) for precision in bundle.manifest.precisions}
    plain, usual = found["fp32"]
    rows = []
    for precision, (scores, decisions) in found.items():
        for k, segment in enumerate(bundle.precision(precision).segments):
            rows.append(
                {
                    "network": name,
                    "precision": precision,
                    "exit": k,
                    "samples": len(truth),
                    "accuracy": float((scores.label[k] == truth).mean()),
                    "accuracy_fp32": float((plain.label[k] == truth).mean()),
                    "top1_agreement": float((scores.label[k] == plain.label[k]).mean()),
                    "exit_index_agreement": float((decisions.exit_index == usual.exit_index).mean()),
                    "exit_share": float((decisions.exit_index == k).mean()),
                    "exit_share_fp32": float((usual.exit_index == k).mean()),
                    "int8_macs_share": segment.int8_macs_share,
                    "early_exit_accuracy": float((decisions.label == truth).mean()),
                    "notes": bundle.precision(precision).notes,
                }
            )
    return rows


def _answers(bundle: Bundle, precision: str, frames: list[Any]) -> tuple[Scores, Decisions]:
    classifier = load_classifier(bundle, precision, backend_named("onnxruntime"))
    scores = record(classifier, track(frames, f"{bundle.manifest.name} in {precision}")).scores
    thresholds = validate_thresholds(bundle.precision(precision).thresholds.values, len(bundle.manifest.exits))
    return scores, decide(scores, np.asarray(thresholds))


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a line of the table."""
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
