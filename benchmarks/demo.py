"""The whole pipeline on one machine: images to a measured early-exit classification of a video, and a report."""

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
from benchmarks.memory import peak_rss_mb_over_bare
from benchmarks.report import write_report
from benchmarks.results import command_line, write_result
from benchmarks.truncated import matched_thresholds, truncated_bundles, truncated_row
from benchmarks.video import write_video
from compile.precisions import DEFAULT_PRECISIONS as PRECISIONS
from compile.trained_model import load_trained_model
from edge.bundle.bundle import Bundle
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
"""What the report speaks of: what a Jetson runs. Both precisions are measured."""
GUARANTEE = {
    "digits": ["--method", "expectation", "--limit", "0.02"],  # few images prove little
    "fashion-mnist": ["--limit", "0.005", "--confidence", "0.95", "--shared"],  # shared is cheaper here: risk.json
}
"""What early exits may cost on images the thresholds were not fitted to."""
TRAINING = {
    "digits": ["--regime", "soft-cgt", "--epochs", "6", "--batch-size", "32"],
    "fashion-mnist": ["--regime", "joint", "--epochs", "12", "--batch-size", "128"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the demo."""
    parser.add_argument("--dataset", choices=tuple(TRAINING), default="digits", help="images (default: %(default)s)")
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
    name = "demo" if arguments.dataset == "digits" else f"demo-{arguments.dataset}"
    run_demo(arguments.dataset, arguments.data, arguments.output or Path("runs") / name)
    return PASSED


def run_demo(dataset: str, data: Path | None, folder: Path) -> None:
    """Train, compile, build, run, verify and measure; write `report.html` and `report.json` into `folder`.

    Raises:
        EdgeError: a stage failed; it has said why.
    """
    started = conditions()
    checkpoint_path, bundle_path, video = folder / "training/checkpoint.pt", folder / "bundle", folder / "test.avi"
    source = ["--data", str(data)] if data else []
    stage("edge.training", "--dataset", dataset, *source, "--output", folder / "training", *TRAINING[dataset])
    stage("compile", checkpoint_path, "--output", bundle_path, *GUARANTEE[dataset])
    stage("edge", "build", bundle_path)
    checkpoint, bundle = read_checkpoint(checkpoint_path), Bundle.open(bundle_path)
    trained = load_trained_model(checkpoint, data)
    frames, labels = list(trained.frames("test")), trained.labels("test").tolist()
    write_video(video, track([frame.pixels for frame in frames], "writing the test images as a video"))
    predictions = folder / "predictions.jsonl"
    stage("edge", "run", bundle_path, "--source", video, "--precision", PRECISION, "--output", predictions,
          "--overwrite")  # fmt: skip
    stage("edge", "verify", bundle_path)

    rivals = truncated_bundles(trained, len(bundle.manifest.exits), folder, PRECISIONS)
    measured = {name: measure_all(bundle, rivals, name, frames, labels) for name in PRECISIONS}
    scores = {name: record(load_classifier(bundle, name, OnnxRuntime()), frames).scores for name in PRECISIONS}
    report: dict[str, Any] = {
        "dataset": dataset,
        "precision": PRECISION,
        "video_accuracy": video_accuracy(predictions, labels),
    }
    report |= figures(bundle, PRECISION, measured[PRECISION])
    report["precisions"] = {name: figures(bundle, name, measured[name]) for name in PRECISIONS}
    for name in PRECISIONS:
        report["precisions"][name]["exit_accuracy"] = exit_accuracies(scores[name], labels)
    report["chain_overhead"] = chain_overhead(bundle, PRECISION, frames[0])
    report["verify"] = json.loads(stage("edge", "verify", bundle_path, "--precision", PRECISION, "--json", quiet=True))
    report["verify"] = {"passed": report["verify"]["passed"], "exits": report["verify"]["precisions"][0]["exits"]}
    report["memory"] = peak_rss_mb_over_bare(bundle, PRECISION, video)
    report["peak_rss_mb_over_bare"] = report["memory"]["over_bare_mb"]
    report |= {"command": command_line(), "conditions": started}
    write_result(folder / "report.json", report)
    write_report(folder / "report.html", report, bundle, frames, labels, scores[PRECISION])
    print_summary(report, folder)


def stage(module: str, *arguments: object, quiet: bool = False) -> str:
    """Run a stage as a user would, showing its command, and return what it printed.

    Raises:
        EdgeError: it failed.
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

    bench: BenchResult
    truncated: list[dict[str, float]]


def measure_all(
    bundle: Bundle, rivals: Sequence[Bundle], precision: str, frames: list[Frame], labels: list[int]
) -> Measured:
    """Measure the bundle, the networks truncated at each exit, and early exits at the accuracy of each of those."""
    backend, exits = OnnxRuntime(), len(bundle.manifest.exits)
    with bench_classifiers(bundle, precision, backend) as ours:
        truncated = [load_classifier(rival, precision, backend) for rival in rivals]
        matched = [ours.early_exit.with_thresholds(matched_thresholds(bundle, rival, precision)) for rival in rivals]
        found = measure([*ours, *truncated, *matched], track(frames, f"measuring {precision}"), labels)
    whole, early_exit, *others = found
    per_exit, alone, at_accuracy = others[:exits], others[exits : 2 * exits], others[2 * exits :]
    rows = [truncated_row(k, *pair) for k, pair in enumerate(zip(alone, at_accuracy, strict=True))]
    return Measured(BenchResult(whole, early_exit, tuple(per_exit)), rows)


def figures(bundle: Bundle, precision: str, measured: Measured) -> dict[str, Any]:
    """Return the report's figures of one precision."""
    whole, early = measured.bench.whole, measured.bench.early_exit
    macs = np.array([exit_.macs for exit_ in bundle.manifest.exits])
    cost = macs.cumsum() / macs.sum()
    segments = bundle.precision(precision).segments
    return {
        "accuracy": {"whole": whole.accuracy, "early_exit": early.accuracy},
        "exit_shares": list(early.exit_shares),
        "macs_ratio": float((cost * early.exit_shares).sum()),
        "latency_ms": {
            "whole": asdict(whole.latency_ms),
            "early_exit": asdict(early.latency_ms),
            "exits": [asdict(measurement.latency_ms) for measurement in measured.bench.per_exit],
        },
        "speedup_mean": whole.latency_ms.mean / early.latency_ms.mean,
        "truncated": measured.truncated,
        "int8_macs_share": float(np.average([segment.int8_macs_share for segment in segments], weights=macs)),
        "thresholds": list(bundle.precision(precision).thresholds.values),
    }


def exit_accuracies(scores: Scores, labels: list[int]) -> list[float]:
    """Return each exit's accuracy, were it to answer everything."""
    return [float((exit_labels == np.array(labels)).mean()) for exit_labels in scores.label]


def video_accuracy(predictions: Path, labels: list[int]) -> float:
    """Return the share of right answers `edge run` gave; frame i is test image i.

    Raises:
        EdgeError: a frame is missing.
    """
    answers = [json.loads(line) for line in predictions.read_text().splitlines()]
    if [answer["frame"] for answer in answers] != list(range(len(labels))):
        raise EdgeError(f"`edge run` answered {len(answers)} frames of {len(labels)}, or not in order")
    return float(np.mean([answer["label_index"] == label for answer, label in zip(answers, labels, strict=True)]))


def print_summary(report: dict[str, Any], folder: Path) -> None:
    """Print what came out."""
    rows = []
    for name, found in report["precisions"].items():
        latency = found["latency_ms"]
        rows.append(
            (
                name,
                "whole network",
                f"{found['accuracy']['whole']:.2%}",
                f"{latency['whole']['mean']:.3f}",
                "1.00x",
                "100%",
            )
        )
        early = f"{latency['early_exit']['mean']:.3f}"
        shares = " / ".join(f"{share:.0%}" for share in found["exit_shares"])
        speed, macs = f"{found['speedup_mean']:.2f}x", f"{found['macs_ratio']:.0%}"
        rows.append((name, f"early exits ({shares})", f"{found['accuracy']['early_exit']:.2%}", early, speed, macs))
        for row in found["truncated"]:
            name_of = f"truncated at exit {row['exit']}, trained alone"
            speed = f"{latency['whole']['mean'] / row['latency_ms_mean']:.2f}x"
            rows.append((name, name_of, f"{row['accuracy']:.2%}", f"{row['latency_ms_mean']:.3f}", speed, ""))
            same = f"  early exits fitted to that accuracy: {row['early_exit_speedup']:.2f}x as fast"
            rows.append(
                (name, same, f"{row['early_exit_accuracy']:.2%}", f"{row['early_exit_latency_ms_mean']:.3f}", "", "")
            )
    print_table(
        f"{report['dataset']}: the test set",
        ("precision", "what", "accuracy", "mean ms", "speed-up", "mean MACs"),
        rows,
    )
    overhead, verdict = report["chain_overhead"], "passed" if report["verify"]["passed"] else "FAILED"
    print(f"verify {verdict}; our code adds {overhead['us_per_frame']:.0f} us a frame ({overhead['ratio_p50']:.3f}x)")
    print(f"edge run peaks {report['peak_rss_mb_over_bare']:.0f} MB above a bare process with the same engines")
    print(f"look at {folder / 'report.html'}")
