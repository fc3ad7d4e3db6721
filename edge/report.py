"""Tables about bundles and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edge.console import print_table
from edge.statistics import LATENCY_COLUMNS, latency_cells

if TYPE_CHECKING:  # a table needs none of what the results were made with, and `edge doctor` may find it missing
    from edge.bench import Measured
    from edge.building import Build
    from edge.bundle import Bundle
    from edge.doctor import Finding
    from edge.manifest import Thresholds


def print_bundle(bundle: Bundle) -> None:
    """Print what a bundle holds: exits, their cost, and each precision's thresholds and int8 share."""
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
        print(f"{name}: {_promised(precision.thresholds)}")
        for note in precision.notes:
            print(f"  {note}")


def _promised(thresholds: Thresholds) -> str:
    """Say what thresholds promise."""
    limit = f"{thresholds.limit:g} ms" if thresholds.bounded == "mean_ms" else _percent(thresholds.limit)
    what = f"{thresholds.bounded.replace('_', ' ')} at most {limit}"
    level = "" if thresholds.confidence_level is None else f" with confidence {_percent(thresholds.confidence_level)}"
    how = "on the samples fitted to" if thresholds.method == "none" else f"by {thresholds.method}{level}"
    return f"{what} {how}, {thresholds.samples} samples"


def _percent(fraction: float) -> str:
    """Say a fraction to all its digits: rounding would promise something else."""
    return f"{100 * fraction:.10g}%"


def _threshold(value: float) -> str:
    return "never" if value > 1 else f"{value:.4f}"


def print_builds(builds: Sequence[Build]) -> None:
    """Print what `edge build` did."""
    rows = [
        (
            b.precision,
            b.segment,
            str(b.batch or "any"),
            "kept" if b.was_cached else f"built in {b.seconds:.1f} s",
            f"{b.mebibytes:.1f} MiB",
        )
        for b in builds
    ]
    print_table("engines", ("precision", "segment", "batch", "engine", "size"), rows)


def print_bench(results: Mapping[str, Mapping[str, Measured]]) -> None:
    """Print latency, accuracy and speed against the whole network."""
    rows = []
    for precision, measured in results.items():
        whole = measured["whole"].latency_ms.mean
        for name, found in measured.items():
            accuracy = "" if found.accuracy is None else f"{found.accuracy:.2%}"
            shares = " / ".join(f"{share:.0%}" for share in found.exit_shares)
            speedup = f"{whole / found.latency_ms.mean:.2f}x"
            rows.append((precision, name, *latency_cells(found.latency_ms), speedup, accuracy, shares))
    columns = ("precision", "what", *LATENCY_COLUMNS, "speed-up", "accuracy", "exit shares")
    print_table("frame there to decision known, all taking turns in one process", columns, rows)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what `edge doctor` found."""
    rows = [("ok" if f.is_well else "LACKS", f.what, f.found, "" if f.is_well else f.remedy) for f in findings]
    print_table("this machine", ("", "what", "found", "what to do"), rows)
