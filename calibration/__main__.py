"""`python -m calibration`: refit a bundle's thresholds; its engines stay unchanged."""

from edge.entry import start_process

start_process(__name__)  # before the imports below, which take a second

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from calibration.arguments import add_guarantee_arguments, guarantee_from_arguments, guarantee_options
from calibration.budget import fit_to_macs, fit_to_ms, segment_latencies_ms
from calibration.operating_points import OperatingPoint, operating_point_of
from calibration.recorded_scores import scores_to_fit
from calibration.temperature import fit_temperatures
from calibration.thresholds import fit_all_precisions
from edge.bundle.bundle import Bundle
from edge.bundle.manifest import PrecisionSpec, Thresholds
from edge.bundle.scores import LabelledScores
from edge.cli.info import print_advice
from edge.cli.parser import CommandParser, precision_name
from edge.console import PASSED, log, print_json, print_table, run_main
from edge.decision import validate_thresholds
from edge.errors import ThresholdError


def main() -> int:
    """Refit the thresholds and temperatures of a bundle."""
    arguments = parse_arguments()
    bundle = Bundle.open(arguments.bundle)
    recorded, split = scores_to_fit(bundle, arguments.scores, arguments.precision)
    thresholds = fit(bundle, recorded, split, arguments)
    refitted = {name: refit(bundle.precision(name), recorded[name], thresholds[name]) for name in recorded}
    bundle = bundle.with_precisions(refitted)
    if arguments.json:
        print_json({name: dataclasses.asdict(spec.thresholds) for name, spec in refitted.items()})
    else:
        macs = [exit_.macs for exit_ in bundle.manifest.exits]
        print_points({name: operating_point(spec, recorded[name], macs) for name, spec in refitted.items()})
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
    add_guarantee_arguments(parser)
    group = parser.add_argument_group("budget, instead of a guarantee")
    budget = group.add_mutually_exclusive_group()
    budget.add_argument(
        "--mean-macs",
        type=float,
        metavar="SHARE",
        help="largest mean of multiply-accumulates, as a share of the whole network's",
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
        "--scores", type=Path, metavar="FILE", help="scores written by `edge record` (default: those in the bundle)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def fit(
    bundle: Bundle, recorded: Mapping[str, LabelledScores], split: str, arguments: argparse.Namespace
) -> dict[str, Thresholds]:
    """Return the thresholds of each precision, fitted to the budget if one was given, else to the guarantee."""
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    if arguments.mean_macs is not None:
        return {
            name: fit_to_macs(samples.scores, samples.truth, macs, arguments.mean_macs, split)
            for name, samples in recorded.items()
        }
    if arguments.mean_ms is not None:
        costs_ms = {
            name: segment_latencies_ms(arguments.bench, name, len(macs), bundle.segments_digest(name))
            for name in recorded
        }
        return {
            name: fit_to_ms(samples.scores, samples.truth, macs, costs_ms[name], arguments.mean_ms, split)
            for name, samples in recorded.items()
        }
    scores = {name: samples.scores for name, samples in recorded.items()}
    truth = next(iter(recorded.values())).truth
    return fit_all_precisions(scores, truth, macs, guarantee_from_arguments(arguments), split)


def refit(precision: PrecisionSpec, recorded: LabelledScores, thresholds: Thresholds) -> PrecisionSpec:
    """Return a precision with new thresholds, and temperatures fitted to the same scores."""
    temperatures = fit_temperatures(recorded.logits, recorded.truth)
    return dataclasses.replace(precision, thresholds=thresholds, temperatures=temperatures)


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
