"""`python -m calibration`: refit a bundle's thresholds, without touching its engines."""

import argparse
import dataclasses
from pathlib import Path

from calibration.arguments import add_bound_arguments
from calibration.thresholds import describe, fit_thresholds
from edge.bundle import Bundle, read_scores
from edge.console import PASSED, print_json, print_table, run_main
from edge.decision import checked_thresholds


def main() -> int:
    """Refit as the command line says."""
    arguments = parser().parse_args()
    bundle = Bundle.open(arguments.bundle)
    if arguments.scores and not arguments.precision:
        parser().error("--scores are of one precision: name it with --precision")
    names = [arguments.precision] if arguments.precision else list(bundle.manifest.precisions)
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    fitted, rows = {}, []
    for name in names:
        split = bundle.precision(name).thresholds.split
        scores, truth = read_scores(arguments.scores) if arguments.scores else bundle.scores(name)
        origin = f"recorded: {arguments.scores.name}" if arguments.scores else split
        fitted[name] = fit_thresholds(
            scores, truth, macs, max_drop=arguments.max_drop, confidence_level=arguments.confidence, split=origin
        )
        point = describe(scores, truth, macs, checked_thresholds(fitted[name].values, exits=len(macs)))
        values = " ".join(f"{value:.4f}" for value in point.thresholds)
        rows.append((name, values, f"{point.accuracy:.2%}", f"{point.accuracy_drop:.2%}", f"{point.macs_ratio:.1%}"))
    bundle.with_thresholds(fitted)
    if arguments.json:
        print_json({name: dataclasses.asdict(thresholds) for name, thresholds in fitted.items()})
    else:
        print_table(
            "thresholds, on the samples they were fitted to",
            ("precision", "thresholds", "accuracy", "drop", "mean MACs"),
            rows,
        )
    return PASSED


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    new = argparse.ArgumentParser(
        prog="python -m calibration",
        description="Refit a bundle's thresholds: the largest saving that costs at most the accuracy you allow.",
    )
    new.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by `python -m compile`")
    add_bound_arguments(new)
    new.add_argument("--precision", help="precision to refit (default: all)")
    new.add_argument(
        "--scores", type=Path, metavar="FILE", help="scores of `edge record` (default: those in the bundle)"
    )
    new.add_argument("--json", action="store_true", help="print the result as JSON")
    return new


if __name__ == "__main__":
    run_main(main)
