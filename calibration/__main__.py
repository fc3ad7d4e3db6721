"""`python -m calibration`: refit a bundle's thresholds; its engines stay unchanged."""

from edge.entry import start_process

start_process(__name__)  # before the imports below, which take a second

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from calibration.arguments import (
    add_guarantee_arguments,
    guarantee_from_arguments,
    guarantee_options,
    reject_guarantee_from_arguments,
)
from calibration.budget import fit_to_macs, fit_to_ms, segment_latencies_ms
from calibration.operating_points import OperatingPoint, operating_point_of
from calibration.recorded_scores import scores_to_fit
from calibration.rejection import Fitted, FitThresholds, fit_with_rejection
from calibration.temperature import fit_temperatures
from calibration.thresholds import fit_all_precisions
from edge.bundle.bundle import Bundle
from edge.bundle.manifest import PrecisionSpec
from edge.bundle.scores import LabelledScores
from edge.cli.arguments import add_signature, open_bundle
from edge.cli.info import print_advice, print_rejections
from edge.cli.parser import CommandParser, precision_name
from edge.console import PASSED, log, print_json, print_table, run_main
from edge.decision import validate_thresholds
from edge.errors import ThresholdError


def main() -> int:
    """Refit the thresholds and temperatures of a bundle."""
    arguments = parse_arguments()
    bundle = open_bundle(arguments)
    was_signed = bundle.is_signed
    recorded, split = scores_to_fit(bundle, arguments.scores, arguments.precision)
    fitted = fit(bundle, recorded, split, arguments)
    refitted = {name: refit(bundle.precision(name), recorded[name], fitted[name]) for name in recorded}
    log_removed_rejections(bundle, refitted)
    bundle = bundle.with_precisions(refitted)
    if was_signed:
        log("the signature was removed, since the thresholds changed; sign the bundle again with `edge sign`")
    if arguments.json:
        print_json({name: fitted_fields(spec) for name, spec in refitted.items()})
    else:
        macs = [exit_.macs for exit_ in bundle.manifest.exits]
        print_points({name: operating_point(spec, recorded[name], macs) for name, spec in refitted.items()})
        print_rejections(refitted)
    print_advice(bundle, recorded, log if arguments.json else print)
    return PASSED


def parse_arguments() -> argparse.Namespace:
    """Parse the command line and refuse options without effect.

    Raises:
        ThresholdError: options of a guarantee with a budget, or measurements without a budget in milliseconds.
    """
    arguments = argument_parser().parse_args()
    budgets = {"--mean-macs": arguments.mean_macs, "--mean-ms": arguments.mean_ms}
    for budget in (option for option, value in budgets.items() if value is not None):
        if options := guarantee_options(arguments):
            raise ThresholdError(f"{budget} gives no guarantee on accuracy; leave out {', '.join(options)}")
    if arguments.bench is not None and arguments.mean_ms is None:
        raise ThresholdError("--bench is for a budget in milliseconds; add --mean-ms, or leave it out")
    return arguments


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="python -m calibration",
        description="Refit a bundle's thresholds: the largest saving at the risk you allow, or the highest accuracy "
        "within a budget.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by `python -m compile`")
    add_signature(parser)
    add_guarantee_arguments(parser)
    group = parser.add_argument_group("budget, instead of a guarantee")
    budget = group.add_mutually_exclusive_group()
    budget.add_argument(
        "--mean-macs",
        type=float,
        metavar="SHARE",
        help="largest mean of multiply-accumulates, as a share of the whole network's: 0.5 for half",
    )
    budget.add_argument(
        "--mean-ms", type=float, metavar="MS", help="largest mean latency, according to the measurements in --bench"
    )
    group.add_argument("--bench", type=Path, metavar="FILE", help="output of `edge bench BUNDLE --json`")
    parser.add_argument(
        "--precision",
        action="append",
        type=precision_name,
        metavar="NAME",
        help="precisions to refit, one or more (default: all that have scores)",
    )
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="SCORES",
        help="scores written by `edge record` or `edge score --every-exit` (default: those in the bundle)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def fit(
    bundle: Bundle, recorded: Mapping[str, LabelledScores], split: str, arguments: argparse.Namespace
) -> dict[str, Fitted]:
    """Return the thresholds of each precision, and its rejection if one was asked for."""
    scores = {name: samples.scores for name, samples in recorded.items()}
    truth = next(iter(recorded.values())).truth
    reject = reject_guarantee_from_arguments(arguments)
    fit_thresholds = threshold_fit(bundle, list(recorded), split, arguments)
    return fit_with_rejection(fit_thresholds, scores, truth, bundle.manifest.labels, reject, split)


def threshold_fit(
    bundle: Bundle, precisions: Sequence[str], split: str, arguments: argparse.Namespace
) -> FitThresholds:
    """Return the fit of thresholds to the budget if one was given, else to the guarantee."""
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    if arguments.mean_macs is not None:
        return lambda scores, truth: {
            name: fit_to_macs(each, truth, macs, arguments.mean_macs, split) for name, each in scores.items()
        }
    if arguments.mean_ms is not None:
        costs_ms = {
            name: segment_latencies_ms(arguments.bench, name, len(macs), bundle.segments_digest(name))
            for name in precisions
        }
        return lambda scores, truth: {
            name: fit_to_ms(each, truth, macs, costs_ms[name], arguments.mean_ms, split)
            for name, each in scores.items()
        }
    return partial(fit_all_precisions, costs=macs, guarantee=guarantee_from_arguments(arguments), split=split)


def refit(precision: PrecisionSpec, recorded: LabelledScores, fitted: Fitted) -> PrecisionSpec:
    """Return a precision with new thresholds and rejection, and temperatures fitted to the same scores."""
    temperatures = fit_temperatures(recorded.logits, recorded.truth)
    return dataclasses.replace(precision, **fitted._asdict(), temperatures=temperatures)


def log_removed_rejections(bundle: Bundle, refitted: Mapping[str, PrecisionSpec]) -> None:
    """Log the precisions whose rejection is removed, since it was certified with the thresholds of before."""
    for name, spec in refitted.items():
        if spec.rejection is None and bundle.precision(name).rejection is not None:
            log(f"{name} accepts every prediction from now on; to fit its rejection again, add --reject-limit")


def fitted_fields(spec: PrecisionSpec) -> dict[str, Any]:
    """Return the thresholds and the rejection of a precision as one JSON object."""
    fields = dataclasses.asdict(spec)
    return {**fields["thresholds"], "rejection": fields["rejection"]}


def operating_point(precision: PrecisionSpec, recorded: LabelledScores, macs: list[int]) -> OperatingPoint:
    """Return the operating point of a precision's thresholds on recorded scores."""
    thresholds = validate_thresholds(precision.thresholds.values, exits=len(macs))
    return operating_point_of(recorded.scores, recorded.truth, macs, thresholds)


def print_points(points: Mapping[str, OperatingPoint]) -> None:
    """Print a table of operating points, a row for each precision."""
    rows = [
        (
            name,
            " ".join(f"{value:.4f}" for value in point.thresholds),
            f"{point.accuracy:.2%}",
            f"{point.accuracy_gap:.2%}",
            f"{point.cost_ratio:.1%}",
        )
        for name, point in points.items()
    ]
    columns = ("precision", "thresholds", "accuracy", "drop", "mean MACs")
    print_table("thresholds, on the samples they were fitted to", columns, rows)


if __name__ == "__main__":
    run_main(main)
