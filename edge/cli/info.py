"""`edge info`: the contents of a bundle."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from edge.advice import Advice, advise, exit_figures, merge_precisions
from edge.bundle.bundle import Bundle
from edge.bundle.manifest import Candidate, PrecisionSpec, Rejection, Thresholds
from edge.bundle.scores import LabelledScores
from edge.cli.arguments import add_bundle, open_bundle
from edge.cli.build import print_timings
from edge.console import PASSED, log, print_json, print_table
from edge.decision import validate_thresholds
from edge.inference.selection import read_timings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge info`."""
    add_bundle(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print a bundle's contents and advice."""
    bundle = open_bundle(arguments)
    if arguments.json:
        print_json(
            dataclasses.asdict(bundle.manifest) | {"timings": [timing._asdict() for timing in read_timings(bundle)]}
        )
        print_advice(bundle, emit=log)
    else:
        print_bundle(bundle)
        print_timings(bundle)
        print_advice(bundle)
    return PASSED


def print_bundle(bundle: Bundle) -> None:
    """Print the exits, their cost, and each precision's thresholds and int8 share."""
    manifest = bundle.manifest
    rows = []
    for name, precision in manifest.precisions.items():
        for index, (exit_, segment) in enumerate(zip(manifest.exits, precision.segments, strict=True)):
            is_last = index == len(manifest.exits) - 1
            threshold = "last exit" if is_last else _threshold(precision.thresholds.values[index])
            share = f"{exit_.macs / manifest.macs:.0%}"
            rows.append((name, index, f"{exit_.macs / 1e6:.2f} M", share, f"{segment.int8_macs_share:.1%}", threshold))
    columns = ("precision", "exit", "MACs", "share", "int8 conv MACs", "threshold")
    print_table(f"{manifest.name}: {len(manifest.labels)} classes, input {manifest.input.shape}", columns, rows)
    for name, precision in manifest.precisions.items():
        print(f"{name}: {_guarantee(precision.thresholds)}")
        if len(precision.thresholds.candidates) > 1:
            print(f"  {_candidates(precision.thresholds.candidates)}")
        for note in precision.notes:
            print(f"  {note}")
    print_rejections(manifest.precisions)


def print_rejections(precisions: Mapping[str, PrecisionSpec]) -> None:
    """Print the coverage and the error of each precision that rejects frames."""
    for name, precision in precisions.items():
        if precision.rejection is not None:
            print(f"{name}: {_rejection(precision.rejection)}")


def print_advice(
    bundle: Bundle,
    scores: Mapping[str, LabelledScores] | None = None,
    emit: Callable[[str], None] = print,
) -> None:
    """Print advice on the bundle's exits, one line for each topic; a healthy bundle prints nothing.

    Args:
        bundle: The bundle.
        scores: The scores that its thresholds were fitted to, by precision; None for those in the bundle.
        emit: Prints a line.
    """
    for line in merge_precisions(bundle_advice(bundle, scores)):
        emit(f"advice: {line}")


def bundle_advice(bundle: Bundle, scores: Mapping[str, LabelledScores] | None = None) -> dict[str, list[Advice]]:
    """Return advice on each precision; arguments as of `print_advice`."""
    manifest = bundle.manifest
    if scores is None:
        scores = {name: bundle.scores(name) for name in manifest.precisions}
    macs = [exit_.macs for exit_ in manifest.exits]
    advice = {}
    for name, recorded in scores.items():
        fitted = bundle.precision(name).thresholds
        thresholds = validate_thresholds(fitted.values, len(macs))
        figures = exit_figures(recorded.scores, recorded.truth, thresholds, macs)
        advice[name] = advise(figures, has_budget=fitted.target_metric in ("mean_macs", "mean_ms"))
    return advice


def _guarantee(thresholds: Thresholds) -> str:
    """Return the thresholds' guarantee as text."""
    limit = f"{thresholds.limit:g} ms" if thresholds.target_metric == "mean_ms" else _percent(thresholds.limit)
    bound = f"{thresholds.target_metric.replace('_', ' ')} at most {limit}"
    level = "" if thresholds.confidence_level is None else f" with confidence {_percent(thresholds.confidence_level)}"
    method = "on the samples of the fit" if thresholds.method == "none" else f"by {thresholds.method}{level}"
    return f"{bound} {method}, {thresholds.samples} samples"


def _candidates(candidates: Sequence[Candidate]) -> str:
    """Return the cost of each candidate and the bound on its disagreement as text."""
    costs = " / ".join(f"{candidate.mean_macs:.0%}" for candidate in candidates)
    bounds = (candidate.disagreement_bound for candidate in candidates)
    disagreements = " / ".join("unknown" if bound is None else f"{bound:.1%}" for bound in bounds)
    return f"candidates at run time: {costs} of the MACs; at most {disagreements} differ from the last exit"


def _rejection(rejection: Rejection) -> str:
    """Return the coverage and the bound on the error as text."""
    return (
        f"none if the last exit's confidence is below {rejection.threshold:.4f}; accepts {rejection.coverage:.1%}, "
        f"error among them at most {_percent(rejection.limit)} by {rejection.method} with confidence "
        f"{_percent(rejection.confidence_level)}, {rejection.samples} samples"
    )


def _percent(fraction: float) -> str:
    """Return a fraction as a percentage with all digits: rounding would change the guarantee."""
    return f"{100 * fraction:.10g}%"


def _threshold(value: float) -> str:
    return "never" if value > 1 else f"{value:.4f}"
