"""The claims of Confidence-Gated and Explanation-Guided Training, measured beside rival methods."""

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.papers.claims import claims_of
from benchmarks.papers.evaluation import evaluate_group
from benchmarks.papers.figures import write_figures
from benchmarks.papers.grid import full_grid, name_of, quick_grid
from benchmarks.papers.regimes import PAPER_REGIMES
from benchmarks.papers.tables import print_tables
from benchmarks.results import command_line, write_result
from edge.console import PASSED, log, print_table
from edge.system import conditions
from edge.training.datasets import load_dataset
from edge.training.settings import Settings
from edge.training.train import train


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
    run_papers(arguments.output or folder, quick=arguments.quick)
    return PASSED


def run_papers(folder: Path, *, quick: bool) -> None:
    """Train the missing networks, evaluate all of them, and write `papers.json` and figures into `folder`.

    Raises:
        EdgeError: training, compilation or measurement failed.
    """
    runs = quick_grid() if quick else full_grid()
    train_all(runs, folder)
    rows = evaluate_all(runs, folder)
    claims = claims_of(rows)
    result = {"command": command_line(), "conditions": conditions(), "claims": claims, "rows": rows}
    write_result(folder / "papers.json", result)
    write_figures(folder, rows)
    print_tables(rows)
    columns = ("claim", "target", "measured", "holds")
    cells = [
        (claim["claim"], claim["asked_for"], claim["measured"], "yes" if claim["holds"] else "NO") for claim in claims
    ]
    print_table("the papers' claims, means over seeds", columns, cells)
    log(f"every row is in {folder / 'papers.json'}, the figures beside it")


def train_all(runs: Sequence[Settings], folder: Path) -> None:
    """Train every run that is not finished."""
    for (dataset, data, size), members in groupby(runs, key=lambda run: (run.dataset, run.data, run.image_size)):
        images = load_dataset(dataset, Path(data) if data else None, size)
        for run in members:
            log(f"training {name_of(run)}")
            train(run, folder / name_of(run), images, PAPER_REGIMES.get(run.regime))


def evaluate_all(runs: Sequence[Settings], folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all runs; runs of one dataset, backbone and seed are measured in turns."""

    def group(run: Settings) -> tuple[str, str, int]:
        return run.dataset, run.backbone, run.seed

    rows = []
    for _, members in groupby(sorted(runs, key=group), key=group):
        rows += evaluate_group(list(members), folder)
    return rows
