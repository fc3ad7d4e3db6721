"""The demo's network trained with several seeds: early exits must pay with most of them, not with a lucky one."""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.demo import DATASETS, figures, make_bundle, measure_precisions
from benchmarks.results import command_line, write_result
from edge.advice import merge_precisions
from edge.cli.info import bundle_advice
from edge.console import FAILED, PASSED, log, print_table
from edge.decision import Scores
from edge.engines.onnxruntime import OnnxRuntime
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.parity.compare import verify
from edge.system import conditions

MIN_PAST_FIRST = 0.10
"""Share of frames that go on past exit 0."""
MAX_ACCURACY_GAP = 0.015
"""Accuracy that early exits may cost on the test split, with its noise."""
MIN_SHARE_OF_SEEDS = 0.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    parser.add_argument("--dataset", choices=DATASETS, default=DATASETS[0], help="images (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the dataset's files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 to 4")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/demo-seeds"),
        metavar="DIR",
        help="folder of the networks; finished ones in it are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo_seeds.json"), metavar="FILE", help="default: %(default)s"
    )


def main(arguments: argparse.Namespace) -> int:
    """Check the demo's network with several seeds."""
    passed = run_demo_seeds(arguments.dataset, arguments.data, arguments.seeds, arguments.folder, arguments.output)
    return PASSED if passed else FAILED


def run_demo_seeds(dataset: str, data: Path | None, seeds: Sequence[int], folder: Path, output: Path) -> bool:
    """Train, compile and measure the demo's network with each seed, and check the criteria for most of them.

    Raises:
        EdgeError: a stage failed, after printing its reason.
    """
    started = conditions()
    rows = [seed_figures(dataset, data, seed, folder / f"seed-{seed}") for seed in seeds]
    passed = sum(bool(row["passed"]) for row in rows)
    result = {
        "dataset": dataset,
        "passed": passed,
        "seeds": rows,
        "command": command_line(),
        "conditions": started,
    }
    write_result(output, result)
    print_seeds(rows)
    print(f"early exits pay with {passed} of {len(rows)} seeds; wrote {output}")
    return passed >= MIN_SHARE_OF_SEEDS * len(rows)


def seed_figures(dataset: str, data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """Return one seed's figures in each precision, and the criteria that hold for them."""
    log(f"seed {seed}")
    trained, bundle = make_bundle(dataset, data, folder, seed)
    measured = measure_precisions(trained, bundle, folder)
    advice = merge_precisions(bundle_advice(bundle))
    frames, labels = list(trained.frames("test")), trained.labels("test").tolist()
    precisions = {}
    for name, values in measured.items():
        scores = record(load_classifier(bundle, name, OnnxRuntime()), frames).scores
        row = figures(bundle, name, values) | {"advice": advice, "exit_gains": exit_gains(scores, labels)}
        row["exit_accuracy"] = [measurement.accuracy for measurement in values.bench.per_exit]
        [parity] = verify(bundle, name, [OnnxRuntime()])
        row |= {"verified": parity.passed, "parity_failures": [str(failure) for failure in parity.failures]}
        precisions[name] = row | {"criteria": criteria(row)}
    passed = all(all(row["criteria"].values()) for row in precisions.values())
    return {"seed": seed, "test_samples": len(labels), "passed": passed, "precisions": precisions}


def exit_gains(scores: Scores, labels: Sequence[int]) -> list[dict[str, float]]:
    """Return the accuracy that each exit but the first gains over the one before it, with its standard error.

    The standard error is that of paired samples, taken as independent.
    """
    correct = (scores.label == np.array(labels)).astype(np.float64)
    return [
        {"gain": float(gain.mean()), "standard_error": float(gain.std(ddof=1)) / math.sqrt(len(labels))}
        for gain in np.diff(correct, axis=0)
    ]


def criteria(row: Mapping[str, Any]) -> dict[str, bool]:
    """Check each criterion of a demo that shows early exits."""
    *early, last = row["exit_accuracy"]
    accuracy = row["accuracy"]
    return {
        "no_exit_as_good_as_the_last": max(early) < last and not row["advice"],
        "a_tenth_goes_on": 1 - row["exit_shares"][0] >= MIN_PAST_FIRST,
        "verified": row["verified"],
        "near_the_whole_network": accuracy["whole"] - accuracy["early_exit"] <= MAX_ACCURACY_GAP,
        "beats_truncated_networks": all(map(beats, row["truncated"][:-1])),
    }


def beats(row: Mapping[str, float]) -> bool:
    """Check that early exits beat a truncated network: as accurate, and faster.

    The network truncated at exit 0 is the first segment of the chain. Nothing that starts with this segment is faster,
    so that early exits beat it by being more accurate with the same multiply-accumulates.
    """
    if row["exit"] == 0:
        return row["early_exit_accuracy"] > row["accuracy"] and row["early_exit_macs_ratio"] <= row["macs_ratio"]
    return row["early_exit_accuracy"] >= row["accuracy"] and row["early_exit_speedup"] > 1


def print_seeds(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print each seed's figures and the criteria that fail."""
    columns = (
        "seed",
        "exits alone",
        "gains",
        "whole",
        "early exits",
        "shares",
        "speed-up",
        "against truncated",
        "fails",
    )
    cells = (
        (f"{row['seed']} {name}", *seed_cells(values)) for row in rows for name, values in row["precisions"].items()
    )
    print_table("early exits on the test split", columns, cells)


def seed_cells(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one seed in one precision."""
    rivals = (
        f"{rival['early_exit_accuracy']:.1%} against {rival['accuracy']:.1%}, {rival['early_exit_speedup']:.2f}x"
        for rival in values["truncated"]
    )
    return (
        " / ".join(f"{accuracy:.1%}" for accuracy in values["exit_accuracy"]),
        " / ".join(f"{exit_['gain']:.1%} ±{exit_['standard_error']:.1%}" for exit_ in values["exit_gains"]),
        f"{values['accuracy']['whole']:.2%}",
        f"{values['accuracy']['early_exit']:.2%}",
        " / ".join(f"{share:.0%}" for share in values["exit_shares"]),
        f"{values['speedup_mean']:.2f}x",
        "; ".join(rivals),
        ", ".join(name for name, holds in values["criteria"].items() if not holds),
    )
