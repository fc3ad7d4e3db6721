"""`edge score`: predictions for a large set of images, on all cores of this machine or of a Ray cluster."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edge.bundle.bundle import Bundle
from edge.cli.arguments import add_backend_name, add_bundle, add_precision, open_bundle
from edge.cli.output import check_outside
from edge.console import PASSED, ProgressDisplay, log, print_json, print_table
from edge.engines import default_backend
from edge.inference.selection import select

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
        "--every-exit",
        action="store_true",
        help="record the outputs of every exit in place of predictions, to refit thresholds or to compare backends",
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
    is_other_machine = arguments.address is not None and arguments.backend == "auto"  # its timings may differ
    name = default_backend() if is_other_machine else arguments.backend
    backend, precision, _ = select(bundle, name, arguments.precision or "auto")
    with ProgressDisplay() as display:
        parts = score(
            bundle,
            precision,
            backend.name,
            arguments.dataset,
            arguments.output,
            every_exit=arguments.every_exit,
            address=arguments.address,
            on_progress=display,
        )
    scored = Scored(arguments.output, precision, backend.name)
    if arguments.every_exit:
        report_recording(scored, parts, bundle, as_json=arguments.json)
    else:
        report_predictions(scored, parts, len(bundle.manifest.exits), as_json=arguments.json)
    return PASSED


class Scored(NamedTuple):
    """Output of the command."""

    output: Path
    precision: str
    backend: str

    def as_json(self) -> dict[str, str]:
        """Return it for `--json`."""
        return {"output": str(self.output), "precision": self.precision, "backend": self.backend}


def report_recording(scored: Scored, parts: Sequence[Path], bundle: Bundle, *, as_json: bool) -> None:
    """Print the command that refits thresholds.

    Raises:
        DataError: no image could be read, or an image has no label.
    """
    from edge.distributed.recorded import read_recording
    from edge.distributed.summary import count_images

    samples = len(read_recording(scored.output, bundle.manifest.labels).truth)
    if as_json:
        print_json(scored.as_json() | {"samples": samples})
    else:
        print(f"wrote {scored.output} with {samples} samples; to refit thresholds:")
        print(f"  python -m calibration {bundle.path} --scores {scored.output} --precision {scored.precision}")
    warn_of_damaged(count_images(parts) - samples)


def report_predictions(scored: Scored, parts: Sequence[Path], exits: int, *, as_json: bool) -> None:
    """Print exits and accuracy.

    Raises:
        SourceError: no image could be read.
    """
    from edge.distributed.summary import summarise

    summary = summarise(parts, exits)
    if as_json:
        print_json(scored.as_json() | asdict(summary))
    else:
        print_summary(f"{scored.precision} on {scored.backend}", summary)
        print(f"wrote {scored.output}")
    warn_of_damaged(summary.damaged)


def warn_of_damaged(images: int) -> None:
    """Log the number of images that could not be read, if any."""
    if images:
        log(f"warning: {images} images could not be read; the column `error` of the scores has the reasons")


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
