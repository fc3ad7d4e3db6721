"""`python -m benchmarks elpv`: EfficientNet-Lite0 on solar cells, with three exits, without EGT, and alone."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.elpv.comparison import compare
from benchmarks.elpv.folds import ALONE, EARLY_EXITS, NETWORKS, UNGUIDED, fold_rows
from benchmarks.results import add_output, command_line, write_result
from edge.console import PASSED, log, print_table
from edge.system import conditions, with_end
from edge.training.datasets.elpv import NOTES
from edge.training.splits import FOLDS


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
    """Train the networks on each fold, compare them over the folds so far and write the result.

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


def print_result(result: dict[str, Any]) -> None:
    """Print the comparisons, the curve and the notes on the images."""
    comparison = result["comparison"]
    networks = comparison["networks"]
    print_table(
        f"{comparison['images']} photographs of solar cells, the test images of {comparison['folds']} folds",
        ("EfficientNet-Lite0", "accuracy", "mean MACs", "exits alone"),
        [
            (
                name,
                f"{networks[name]['accuracy']:.2%}",
                f"{networks[name]['macs_ratio']:.0%}",
                " / ".join(f"{accuracy:.1%}" for accuracy in networks[name]["exit_accuracy"]),
            )
            for name in NETWORKS
        ],
    )
    for rival, against in comparison["against"].items():
        low, high = against["interval"]
        print(f"{EARLY_EXITS} against {rival}: {against['difference']:+.2%}, 95 % interval {low:+.2%} to {high:+.2%}")
    print(f"{np.mean(comparison['speedup']):.2f}x as fast as {ALONE}")
    columns, points = ("budget", "mean MACs", "accuracy"), comparison["curve"]
    print_table("thresholds fitted to a budget", columns, [tuple(f"{v:.1%}" for v in p.values()) for p in points])
    guided, unguided = (networks[name]["attention"] for name in (EARLY_EXITS, UNGUIDED))
    columns = ("means over exits and folds", "without EGT", "with EGT")
    print_table("attention maps", columns, [(name, f"{unguided[name]:.3f}", f"{guided[name]:.3f}") for name in guided])
    for note in result["notes"]:
        print(note)
