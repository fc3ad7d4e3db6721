"""`python -m calibration`: refit a bundle's thresholds, without touching its engines."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from calibration.arguments import add_guarantee_arguments, guarantee_from_arguments, guarantee_options
from calibration.budget import fit_to_macs, fit_to_ms, measured_costs
from calibration.operating_points import OperatingPoint, describe
from calibration.origin import scores_to_fit
from calibration.temperature import fit_temperatures
from calibration.thresholds import fit_all_precisions
from edge.bundle.bundle import Bundle
from edge.bundle.manifest import Thresholds
from edge.bundle.scores import LabelledScores
from edge.cli.info import print_advice
from edge.console import PASSED, log, print_json, print_table, run_main
from edge.decision import validate_thresholds
from edge.errors import ThresholdError


def main() -> int:
    """Refit as the command line says."""
    arguments = parser().parse_args()
    check_asked(arguments)
    bundle = Bundle.open(arguments.bundle)
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    found, split = scores_to_fit(bundle, arguments.scores, arguments.precision)
    fitted = fit(bundle, found, arguments, split)
    refitted, rows = {}, []
    for name, recorded in found.items():
        temperatures = fit_temperatures(recorded.logits, recorded.truth)
        refitted[name] = dataclasses.replace(bundle.precision(name), thresholds=fitted[name], temperatures=temperatures)
        values = validate_thresholds(fitted[name].values, exits=len(macs))
        rows.append((name, *cells(describe(recorded.scores, recorded.truth, macs, values))))
    bundle = bundle.with_precisions(refitted)
    if arguments.json:
        print_json({name: dataclasses.asdict(spec.thresholds) for name, spec in refitted.items()})
    else:
        columns = ("precision", "thresholds", "accuracy", "drop", "mean MACs")
        print_table("thresholds, on the samples they were fitted to", columns, rows)
    print_advice(bundle, found, log if arguments.json else print)
    return PASSED


def check_asked(arguments: argparse.Namespace) -> None:
    """Refuse options that would do nothing.

    Raises:
        ThresholdError: a promise beside a budget, or measurements without a budget that needs them.
    """
    budgets = {"--mean-macs": arguments.mean_macs, "--mean-ms": arguments.mean_ms}
    for option in (option for option, value in budgets.items() if value is not None):
        if asked := guarantee_options(arguments):
            raise ThresholdError(f"{option} promises nothing about accuracy: leave out {', '.join(asked)}")
    if arguments.bench is not None and arguments.mean_ms is None:
        raise ThresholdError("--bench is for a budget of milliseconds: add --mean-ms, or leave it out")


def fit(
    bundle: Bundle, found: Mapping[str, LabelledScores], arguments: argparse.Namespace, split: str
) -> dict[str, Thresholds]:
    """Return each precision's thresholds, within a budget where one was given, else with a promise."""
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    if arguments.mean_macs is not None:
        return {
            name: fit_to_macs(one.scores, one.truth, macs, arguments.mean_macs, split) for name, one in found.items()
        }
    if arguments.mean_ms is not None:
        costs_ms = {
            name: measured_costs(arguments.bench, name, len(macs), bundle.segments_digest(name)) for name in found
        }
        return {
            name: fit_to_ms(one.scores, one.truth, costs_ms[name], arguments.mean_ms, split)
            for name, one in found.items()
        }
    truth = next(iter(found.values())).truth
    return fit_all_precisions(
        {name: one.scores for name, one in found.items()}, truth, macs, guarantee_from_arguments(arguments), split
    )


def cells(point: OperatingPoint) -> tuple[str, ...]:
    """Return a row of the table."""
    values = " ".join(f"{value:.4f}" for value in point.thresholds)
    return values, f"{point.accuracy:.2%}", f"{point.accuracy_gap:.2%}", f"{point.cost_ratio:.1%}"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    new = argparse.ArgumentParser(
        prog="python -m calibration",
        description="Refit a bundle's thresholds: the largest saving at the risk you allow, or the most accurate ones "
        "within a budget.",
    )
    new.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by `python -m compile`")
    add_guarantee_arguments(new)
    group = new.add_argument_group("or a budget, with no promise")
    budget = group.add_mutually_exclusive_group()
    budget.add_argument(
        "--mean-macs", type=float, metavar="SHARE", help="mean multiply-accumulates, as a share of the whole network's"
    )
    budget.add_argument("--mean-ms", type=float, metavar="MS", help="mean latency, by what --bench measured")
    group.add_argument("--bench", type=Path, metavar="FILE", help="what `edge bench BUNDLE --json` printed")
    new.add_argument("--precision", help="precision to refit (default: all there are scores of)")
    new.add_argument(
        "--scores", type=Path, metavar="FILE", help="scores of `edge record` (default: those in the bundle)"
    )
    new.add_argument("--json", action="store_true", help="print the result as JSON")
    return new


if __name__ == "__main__":
    run_main(main)
