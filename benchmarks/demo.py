"""The whole pipeline on one machine: from images to the measured classification of a video, and a report."""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.chain_overhead import chain_overhead
from benchmarks.demo_report import precision_label, write_report
from benchmarks.memory import peak_rss_mb_over_bare
from benchmarks.results import command_line, write_result
from benchmarks.truncated import macs_alone, matched_thresholds, truncated_bundles, truncated_row, whole_macs
from benchmarks.video import write_video
from compile.precisions import DEFAULT_PRECISIONS as PRECISIONS
from compile.trained_model import TrainedModel, load_trained_model
from edge.advice import merge_precisions
from edge.bundle.bundle import Bundle
from edge.cli.bench import ONNXRUNTIME_NOTE
from edge.cli.info import bundle_advice
from edge.console import PASSED, log, print_table, track
from edge.decision import Scores
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import DataError, EdgeError
from edge.frames.base import Frame
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.measure.bench import BenchResult, bench_classifiers, measure
from edge.system import conditions
from edge.training.checkpoint import read_checkpoint

PRECISION = "int8"
"""The precision that the report is about, as a Jetson runs it. All precisions are measured."""
GUARANTEE = {
    "cluttered-digits": ["--method", "expectation", "--limit", "0.01"],  # few images prove little
    "digits": ["--method", "expectation", "--limit", "0.02"],
    "fashion-mnist": ["--method", "betting", "--limit", "0.005", "--confidence", "0.95", "--shared"],  # as recorded
    "elpv": ["--method", "expectation", "--limit", "0.01"],
}
"""The accuracy that early exits may cost on images the thresholds were not fitted to."""
TRAINING = {
    "cluttered-digits": [
        "--backbone", "cnn-deep", "--distillation-weight", "1", "--epochs", "6", "--batch-size", "64",
    ],
    "digits": ["--regime", "soft-cgt", "--epochs", "6", "--batch-size", "32"],
    "fashion-mnist": ["--regime", "joint", "--epochs", "12", "--batch-size", "128"],
    "elpv": [
        "--backbone", "timm:tf_efficientnet_lite0", "--pretrained", "efficientnet-lite", "--distillation-weight", "1",
        "--epochs", "8", "--batch-size", "32",
    ],
}  # fmt: skip
WITHOUT_TRUNCATED = {"elpv"}
"""Datasets whose demo does not train the truncated networks, which would take most of its time."""
DATASETS = tuple(TRAINING)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the demo."""
    parser.add_argument("--dataset", choices=DATASETS, default=DATASETS[0], help="images (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the dataset's files, if in no usual place")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for everything (default: runs/demo...)")


def main(arguments: argparse.Namespace) -> int:
    """Run the whole pipeline on real images.

    Raises:
        DataError: there is no folder of this name.
        EdgeError: a stage failed.
    """
    if arguments.data and not arguments.data.is_dir():
        raise DataError(f"there is no folder {arguments.data}; name the one that holds the dataset's files")
    name = "demo" if arguments.dataset == DATASETS[0] else f"demo-{arguments.dataset}"
    run_demo(arguments.dataset, arguments.data, arguments.output or Path("runs") / name)
    return PASSED


def run_demo(dataset: str, data: Path | None, folder: Path) -> None:
    """Train, compile, build, run, verify and measure; write `report.html` and `report.json` into `folder`.

    Raises:
        EdgeError: a stage failed, after printing its reason.
    """
    started = conditions()
    trained, bundle = make_bundle(dataset, data, folder)
    bundle_path, video = bundle.path, folder / "test.avi"
    stage("edge", "build", bundle_path, "--backend", "onnxruntime")
    frames, labels = list(trained.frames("test")), trained.labels("test").tolist()
    write_video(video, track([frame.pixels for frame in frames], "writing the test images as a video"))
    predictions = folder / "predictions.jsonl"
    stage("edge", "run", bundle_path, "--source", video, "--precision", PRECISION, "--output", predictions,
          "--overwrite")  # fmt: skip
    stage("edge", "verify", bundle_path)

    measured = measure_precisions(trained, bundle, folder)
    scores = {name: record(load_classifier(bundle, name, OnnxRuntime()), frames).scores for name in PRECISIONS}
    report: dict[str, Any] = {
        "dataset": dataset,
        "precision": PRECISION,
        "video_accuracy": video_accuracy(predictions, labels),
        "notes": list(trained.images.notes),
    }
    report |= figures(bundle, PRECISION, measured[PRECISION])
    report["precisions"] = {name: figures(bundle, name, measured[name]) for name in PRECISIONS}
    for name in PRECISIONS:
        report["precisions"][name]["exit_accuracy"] = exit_accuracies(scores[name], labels)
    report["advice"] = merge_precisions(bundle_advice(bundle))
    report["chain_overhead"] = chain_overhead(bundle, PRECISION, frames[0])
    report["verify"] = json.loads(stage("edge", "verify", bundle_path, "--precision", PRECISION, "--json", quiet=True))
    report["verify"] = {"passed": report["verify"]["passed"], "exits": report["verify"]["precisions"][0]["exits"]}
    report["memory"] = peak_rss_mb_over_bare(bundle, PRECISION, video)
    report["peak_rss_mb_over_bare"] = report["memory"]["over_bare_mb"]
    report |= {"command": command_line(), "conditions": started}
    write_result(folder / "report.json", report)
    write_report(folder / "report.html", report, bundle, frames, labels, scores[PRECISION])
    print_summary(report, folder)


def make_bundle(dataset: str, data: Path | None, folder: Path, seed: int = 0) -> tuple[TrainedModel, Bundle]:
    """Train and compile with the commands that a user would type.

    Raises:
        EdgeError: a stage failed.
    """
    checkpoint, bundle = folder / "training/checkpoint.pt", folder / "bundle"
    options = [*(["--data", str(data)] if data else []), *TRAINING[dataset], *(["--seed", seed] if seed else [])]
    stage("edge.training", "--dataset", dataset, *options, "--output", folder / "training")
    stage("compile", checkpoint, "--output", bundle, *GUARANTEE[dataset])
    return load_trained_model(read_checkpoint(checkpoint), data), Bundle.open(bundle)


def stage(module: str, *arguments: object, quiet: bool = False) -> str:
    """Run a stage as a user would, show its command, and return its output.

    Raises:
        EdgeError: the stage failed.
    """
    words = [str(argument) for argument in arguments]
    if not quiet:
        shown = ["edge", *words] if module == "edge" else ["python", "-m", module, *words]
        log(f"\n$ {shlex.join(shown)}")
    done = subprocess.run([sys.executable, "-m", module, *words], stdout=subprocess.PIPE, text=True)
    if not quiet:
        sys.stdout.write(done.stdout)
        sys.stdout.flush()
    if done.returncode:
        raise EdgeError(f"`{module} {' '.join(words)}` ended with exit code {done.returncode}; its message is above")
    return done.stdout


class Measured(NamedTuple):
    """One precision of the bundle and the truncated networks, interleaved."""

    cost: tuple[float, ...]
    """Multiply-accumulates up to each exit, as shares of those of the network without early exits."""
    bench: BenchResult
    truncated: list[dict[str, float]]


def measure_precisions(trained: TrainedModel, bundle: Bundle, folder: Path) -> dict[str, Measured]:
    """Train the truncated networks, if the dataset's demo has them, and measure every precision on the test split."""
    frames, labels = list(trained.frames("test")), trained.labels("test").tolist()
    exits, dataset = len(bundle.manifest.exits), trained.checkpoint.settings.dataset
    rivals = [] if dataset in WITHOUT_TRUNCATED else truncated_bundles(trained, exits, folder, PRECISIONS)
    whole = whole_macs(trained, exits)
    return {name: measure_all(bundle, rivals, name, whole, frames, labels) for name in PRECISIONS}


def measure_all(
    bundle: Bundle, rivals: Sequence[Bundle], precision: str, whole_macs: int, frames: list[Frame], labels: list[int]
) -> Measured:
    """Measure the bundle, the networks truncated at each exit, and early exits at the accuracy of each of those."""
    backend, exits = OnnxRuntime(), len(bundle.manifest.exits)
    with bench_classifiers(bundle, precision, backend) as ours:
        truncated = [load_classifier(rival, precision, backend) for rival in rivals]
        matched = [ours.early_exit.with_thresholds(matched_thresholds(bundle, rival, precision)) for rival in rivals]
        measured = measure([*ours, *truncated, *matched], track(frames, f"measuring {precision}"), labels)
    whole, early_exit, *others = measured.classifiers
    per_exit, alone, at_accuracy = others[:exits], others[exits : 2 * exits], others[2 * exits :]
    cost = np.cumsum([exit_.macs for exit_ in bundle.manifest.exits]) / whole_macs
    rival_costs = [macs_alone(rival) / whole_macs for rival in rivals]
    rows = [
        truncated_row(k, *row, cost.tolist()) for k, row in enumerate(zip(alone, at_accuracy, rival_costs, strict=True))
    ]
    return Measured(
        tuple(cost.tolist()), BenchResult(whole, early_exit, tuple(per_exit), {}, measured.control_ms), rows
    )


def figures(bundle: Bundle, precision: str, measured: Measured) -> dict[str, Any]:
    """Return the report's figures of one precision."""
    whole, early = measured.bench.whole, measured.bench.early_exit
    macs = np.array([exit_.macs for exit_ in bundle.manifest.exits])
    segments = bundle.precision(precision).segments
    return {
        "accuracy": {"whole": whole.accuracy, "early_exit": early.accuracy},
        "exit_shares": list(early.exit_shares),
        "macs_ratio": float(np.dot(measured.cost, early.exit_shares)),
        "exit_macs_ratio": list(measured.cost),
        "latency_ms": {
            "whole": asdict(whole.latency_ms),
            "early_exit": asdict(early.latency_ms),
            "exits": [asdict(measurement.latency_ms) for measurement in measured.bench.per_exit],
            "control": asdict(measured.bench.control_ms),
        },
        "speedup_mean": whole.latency_ms.mean / early.latency_ms.mean,
        "truncated": measured.truncated,
        "int8_macs_share": float(np.average([segment.int8_macs_share for segment in segments], weights=macs)),
        "thresholds": list(bundle.precision(precision).thresholds.values),
    }


def exit_accuracies(scores: Scores, labels: list[int]) -> list[float]:
    """Return each exit's accuracy on all samples."""
    return [float((exit_labels == np.array(labels)).mean()) for exit_labels in scores.label]


def video_accuracy(predictions: Path, labels: list[int]) -> float:
    """Return the accuracy of `edge run`; frame i is test image i.

    Raises:
        EdgeError: a frame is missing.
    """
    answers = [json.loads(line) for line in predictions.read_text().splitlines()]
    if [answer["frame"] for answer in answers] != list(range(len(labels))):
        raise EdgeError(f"`edge run` classified {len(answers)} frames of {len(labels)}, or not in order")
    return float(np.mean([answer["label_index"] == label for answer, label in zip(answers, labels, strict=True)]))


def print_summary(report: dict[str, Any], folder: Path) -> None:
    """Print the figures of every precision, advice, the overhead and the verdict."""
    print_table(
        f"{report['dataset']}: the test split",
        ("precision", "network", "accuracy", "mean ms", "speed-up", "mean MACs"),
        [row for precision, values in report["precisions"].items() for row in summary_rows(precision, values)],
    )
    print(ONNXRUNTIME_NOTE)
    for line in report["notes"]:
        print(f"note: {line}")
    for line in report["advice"]:
        print(f"advice: {line}")
    overhead, verdict = report["chain_overhead"], "passed" if report["verify"]["passed"] else "FAILED"
    print(f"verify {verdict}; our code adds {overhead['us_per_frame']:.0f} us a frame ({overhead['ratio_p50']:.3f}x)")
    print(f"edge run peaks {report['peak_rss_mb_over_bare']:.0f} MB above a bare process with the same engines")
    print(f"look at {folder / 'report.html'}")


def summary_rows(precision: str, values: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return one precision's rows: the whole network, early exits, and the truncated networks beside early exits."""
    name, latency, accuracy = precision_label(precision), values["latency_ms"], values["accuracy"]
    whole_ms = latency["whole"]["mean"]
    shares = " / ".join(f"{share:.0%}" for share in values["exit_shares"])
    rows: list[tuple[str, ...]] = [
        (name, "whole network", f"{accuracy['whole']:.2%}", f"{whole_ms:.3f}", "1.00x", "100%"),
        (
            name,
            f"early exits ({shares})",
            f"{accuracy['early_exit']:.2%}",
            f"{latency['early_exit']['mean']:.3f}",
            f"{values['speedup_mean']:.2f}x",
            f"{values['macs_ratio']:.0%}",
        ),
    ]
    for row in values["truncated"]:
        network = f"truncated at exit {row['exit']}, trained alone"
        matched = f"  early exits beside it: {row['early_exit_speedup']:.2f}x as fast"
        for title, prefix in ((network, ""), (matched, "early_exit_")):
            mean_ms = row[f"{prefix}latency_ms_mean"]
            figures = (f"{row[f'{prefix}accuracy']:.2%}", f"{mean_ms:.3f}", f"{whole_ms / mean_ms:.2f}x")
            rows.append((name, title, *figures, f"{row[f'{prefix}macs_ratio']:.0%}"))
    return rows
