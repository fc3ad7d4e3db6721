"""`edge score`: predictions for a large set of images, on all cores of this machine or of a Ray cluster."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli.arguments import add_backend_name, add_bundle, add_precision, open_bundle
from edge.cli.output import check_outside
from edge.console import PASSED, ProgressDisplay, log, print_json, print_table
from edge.engines import backend_named
from edge.inference.load import default_precision

if TYPE_CHECKING:
    from edge.distributed.summary import ScoreSummary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge score`."""
    add_bundle(parser)
    parser.add_argument(
        "dataset", type=Path, metavar="DATASET", help="folder of images or of Parquet files, or a Parquet file"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the scores, as Parquet files; a run that was stopped continues where it was",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="Ray cluster, or auto for that of this node (default: all cores of this machine)",
    )
    add_precision(parser, "run")
    add_backend_name(parser)


def main(arguments: argparse.Namespace) -> int:
    """Score the images that have no scores yet, and print exits and accuracy over all.

    Raises:
        OutputError: the output has other scores or files, or is an input.
        EdgeError: the bundle, dataset, cluster or an engine cannot be used.
    """
    from edge.distributed.score import score

    bundle = open_bundle(arguments)
    check_outside(arguments.output, [arguments.dataset], bundle)
    backend = backend_named(arguments.backend)
    precision = arguments.precision or default_precision(bundle, backend)
    with ProgressDisplay() as display:
        summary = score(
            bundle,
            precision,
            backend.name,
            arguments.dataset,
            arguments.output,
            address=arguments.address,
            on_progress=display,
        )
    if arguments.json:
        print_json({"output": str(arguments.output), "precision": precision, "backend": backend.name} | asdict(summary))
    else:
        print_summary(f"{precision} on {backend.name}", summary)
        print(f"wrote {arguments.output}")
    if summary.damaged:
        log(f"warning: {summary.damaged} images could not be read; the column `error` of the scores has the reasons")
    return PASSED


def print_summary(task: str, summary: "ScoreSummary") -> None:
    """Print exits and accuracy."""
    rows = [
        (str(k), str(exit_.images), f"{exit_.share:.1%}", _percent(exit_.accuracy))
        for k, exit_ in enumerate(summary.exits)
    ]
    rows.append(("all", str(summary.images - summary.damaged), "100.0%", _percent(summary.accuracy)))
    counts = [f"{summary.images} images", f"{summary.labelled} with a label", f"{summary.damaged} damaged"]
    counts += [f"{summary.rejected} rejected"] if summary.rejected else []
    print_table(f"{task}: {', '.join(counts)}", ("exit", "images", "share", "accuracy"), rows)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"
