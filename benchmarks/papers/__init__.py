"""The claims of Confidence-Gated and Explanation-Guided Training, measured beside rival methods."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.papers.claims import Claim, claims_of
from benchmarks.papers.comparisons import Comparison
from benchmarks.papers.evaluation import EvaluatedNetwork, evaluate_run
from benchmarks.papers.figures import write_figures
from benchmarks.papers.finished import read_finished, write_finished
from benchmarks.papers.grid import Run, full_grid, quick_grid
from benchmarks.papers.methods import METHODS
from benchmarks.papers.rows import Finished, comparisons_of
from benchmarks.papers.tables import print_tables
from benchmarks.papers.tasks import TASKS
from benchmarks.results import command_line, write_result
from edge.console import PASSED, log, print_table
from edge.system import conditions
from edge.training.datasets.base import LabelledImages
from edge.training.train import train

RESULT = "papers.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    parser.add_argument("--quick", action="store_true", help="few epochs and one seed: minutes instead of hours")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for networks and results; finished networks in it are kept "
        "(default: runs/papers, or runs/papers-quick)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Measure the claims of the two training papers again."""
    folder = Path("runs/papers-quick" if arguments.quick else "runs/papers")
    run_papers(arguments.output or folder, quick_grid() if arguments.quick else full_grid())
    return PASSED


def run_papers(folder: Path, runs: Sequence[Run]) -> None:
    """Train and evaluate the networks that are not finished, judge the claims, and print the tables.

    After each network, `papers.json` in `folder` has the rows and the verdicts so far.

    Raises:
        EdgeError: training or evaluation failed.
    """
    before = conditions()
    finished = {run: network for run in runs if (network := read_finished(folder / run.name, run))}
    claims = write_results(folder, finished, before)
    for task, members in groupby((run for run in runs if run not in finished), key=lambda run: run.task):
        images = TASKS[task].load()
        for run in members:
            log(f"{run.name}, network {len(finished) + 1} of {len(runs)}")
            finished[run] = train_and_evaluate(run, images, folder / run.name)
            claims = write_results(folder, finished, before)
    write_figures(folder, [network.row for network in finished.values()])
    print_tables([network.row for network in finished.values()])
    print_claims(claims)
    log(f"every row is in {folder / RESULT}, the figures beside it")


def train_and_evaluate(run: Run, images: LabelledImages, folder: Path) -> EvaluatedNetwork:
    """Train a network, resuming an interrupted training, and keep its figures in its folder."""
    method = METHODS[run.method]
    checkpoint = train(run.settings, folder, images, method.phases, before_training=method.before_training)
    network = evaluate_run(run, checkpoint, images)
    write_finished(folder, network)
    return network


def write_results(folder: Path, finished: Finished, before: Mapping[str, Any]) -> list[Claim]:
    """Judge the claims from the finished networks, and write rows, comparisons and verdicts."""
    rows, comparisons = [network.row for network in finished.values()], list(comparisons_of(finished))
    claims = claims_of(rows, comparisons)
    result = {
        "command": command_line(),
        "conditions": before,
        "claims": [asdict(claim) for claim in claims],
        "comparisons": [described(comparison) for comparison in comparisons],
        "rows": rows,
    }
    write_result(folder / RESULT, result)
    return claims


def described(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison with its interval, as recorded."""
    return asdict(comparison) | {"difference": comparison.difference, "interval": comparison.interval()}


def print_claims(claims: Sequence[Claim]) -> None:
    """Print the verdicts."""
    verdicts = {True: "yes", False: "NO", None: "open"}
    cells = [(claim.claim, claim.asked_for, claim.measured, verdicts[claim.holds]) for claim in claims]
    print_table("claims, on test splits", ("claim", "target", "measured", "holds"), cells)
