"""`edge info`: the contents of a bundle."""

import argparse
import dataclasses

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import Thresholds
from edge.cli.arguments import add_bundle
from edge.console import PASSED, print_json, print_table
from edge.doctor.checks import check_graph_mode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge info`."""
    add_bundle(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print a bundle's contents, and where its exits would be decided on this machine."""
    bundle = Bundle.open(arguments.bundle)
    if arguments.json:
        print_json(dataclasses.asdict(bundle.manifest))
    else:
        print_bundle(bundle)
        print(f"exits on the GPU: {check_graph_mode().value}")
    return PASSED


def print_bundle(bundle: Bundle) -> None:
    """Print the exits, their cost, and each precision's thresholds and int8 share."""
    manifest = bundle.manifest
    rows = []
    for name, precision in manifest.precisions.items():
        for index, (exit_, segment) in enumerate(zip(manifest.exits, precision.segments, strict=True)):
            is_last = index == len(manifest.exits) - 1
            threshold = "answers" if is_last else _threshold(precision.thresholds.values[index])
            share = f"{exit_.macs / manifest.macs:.0%}"
            rows.append((name, index, f"{exit_.macs / 1e6:.2f} M", share, f"{segment.int8_macs_share:.1%}", threshold))
    columns = ("precision", "exit", "MACs", "share", "int8 conv MACs", "threshold")
    print_table(f"{manifest.name}: {len(manifest.labels)} classes, input {manifest.input.shape}", columns, rows)
    for name, precision in manifest.precisions.items():
        print(f"{name}: {_guarantee(precision.thresholds)}")
        for note in precision.notes:
            print(f"  {note}")


def _guarantee(thresholds: Thresholds) -> str:
    """Return the thresholds' guarantee as text."""
    limit = f"{thresholds.limit:g} ms" if thresholds.target_metric == "mean_ms" else _percent(thresholds.limit)
    bound = f"{thresholds.target_metric.replace('_', ' ')} at most {limit}"
    level = "" if thresholds.confidence_level is None else f" with confidence {_percent(thresholds.confidence_level)}"
    method = "on the samples fitted to" if thresholds.method == "none" else f"by {thresholds.method}{level}"
    return f"{bound} {method}, {thresholds.samples} samples"


def _percent(fraction: float) -> str:
    """Return a fraction with all its digits: a rounded one would be another guarantee."""
    return f"{100 * fraction:.10g}%"


def _threshold(value: float) -> str:
    return "never" if value > 1 else f"{value:.4f}"
