"""`edge verify`: exit by exit, compare engines with the trained network, backends or recorded scores."""

import argparse
import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from edge.advice import CHANCE, merge_precisions
from edge.bundle.bundle import Bundle
from edge.cli.arguments import add_bundle, add_precisions, add_threads, open_bundle
from edge.cli.info import bundle_advice
from edge.cli.output import check_replaceable
from edge.cli.recorded import read_recorded
from edge.console import FAILED, PASSED, ProgressDisplay, log, print_json, print_table
from edge.engines import BACKENDS
from edge.errors import DataError
from edge.inference.selection import select
from edge.parity.compare import Parity, verify
from edge.parity.recorded import compare_recorded
from edge.parity.report import exit_cells, exit_columns, group_by_reference, is_report, markdown, verdict
from edge.storage import write_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge verify`."""
    add_bundle(parser)
    add_precisions(parser, "verify")
    parser.add_argument(
        "--references",
        type=Path,
        metavar="FILE",
        help="reference samples, written by `python -m compile --references` (default: the bundle's)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the comparison as a Markdown page")
    parser.add_argument(
        "--backend",
        action="append",
        choices=BACKENDS,
        help="inference libraries, one or more; each further library is also compared with the first (default: "
        "onnxruntime)",
    )
    parser.add_argument(
        "--scores",
        nargs=2,
        type=Path,
        metavar=("REFERENCE", "SCORES"),
        help="compare recorded scores of the same images, and run no engine: outputs of `edge record` or `edge score "
        "--every-exit`",
    )
    add_threads(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print the comparison and its verdict, and a warning if the network is no better than chance.

    Raises:
        EdgeError: an option has no effect, or the bundle, an engine or recorded scores cannot be used.
    """
    bundle = open_bundle(arguments)
    if arguments.report is not None:
        inputs = [arguments.references] if arguments.references else arguments.scores or []
        check_replaceable(arguments.report, inputs, bundle, is_kind=is_report, kind="report of `edge verify`")
    results = verify_engines(bundle, arguments) if arguments.scores is None else [verify_scores(bundle, arguments)]
    if arguments.report is not None:
        write_file(arguments.report, markdown(bundle, results))
    passed = all(result.passed for result in results)
    if arguments.json:
        print_json({"passed": passed, "precisions": [_as_json(result) for result in results]})
    else:
        print_parity(results)
    for line in chance_warnings(bundle, {result.precision for result in results}):
        log(line)
    return PASSED if passed else FAILED


def verify_engines(bundle: Bundle, arguments: argparse.Namespace) -> list[Parity]:
    """Run the reference samples through engines."""
    names = arguments.backend or ["onnxruntime"]
    backends = [select(bundle, name, threads=arguments.threads).backend for name in names]
    with ProgressDisplay() as display:
        return [
            result
            for name in arguments.precision or bundle.manifest.precisions
            for result in verify(bundle, name, backends, arguments.references, display)
        ]


def verify_scores(bundle: Bundle, arguments: argparse.Namespace) -> Parity:
    """Compare recorded scores.

    Raises:
        DataError: an option that selects engines was given, too.
    """
    for option in ("precision", "references", "backend"):
        if getattr(arguments, option) is not None:
            raise DataError(f"--{option} is for engines, and --scores compares recorded scores; leave one out")
    reference, recorded = ((str(path), read_recorded(path, bundle.manifest.labels)) for path in arguments.scores)
    return compare_recorded(bundle, reference, recorded)


def print_parity(results: Sequence[Parity]) -> None:
    """Print a table for each reference, and every verdict."""
    for reference, group in group_by_reference(results).items():
        rows = [
            (f"{result.precision} on {result.backend}", *exit_cells(k, exit_))
            for result in group
            for k, exit_ in enumerate(result.exits)
        ]
        title = f"engines against {reference}, {group[0].samples} samples"
        print_table(title, ("precision", *exit_columns(reference)), rows)
        for result in group:
            print(verdict(result))


def chance_warnings(bundle: Bundle, precisions: Collection[str]) -> list[str]:
    """Return warnings about networks no better than chance, which engines may match perfectly."""
    advice = bundle_advice(bundle)
    chance = {name: [item for item in advice[name] if item.topic == CHANCE] for name in advice if name in precisions}
    return [f"warning: {line}" for line in merge_precisions(chance)]


def _as_json(result: Parity) -> dict[str, Any]:
    failures = [str(failure) for failure in result.failures]
    return {**dataclasses.asdict(result), "failures": failures, "first_diverging": result.first_diverging}
