"""`edge bench`: latency and energy of each exit, of early exiting and of the whole network."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.bundle.bundle import Bundle
from edge.cli.arguments import add_backend, add_bundle, add_precisions, required_key
from edge.cli.bench_energy import measure_precisions, print_energy
from edge.console import PASSED, ProgressDisplay, print_json, print_table
from edge.frames.base import frame_from_array
from edge.inference.selection import select
from edge.measure.bench import BenchResult, bench, classifier_name
from edge.measure.bench_energy import BenchEnergy
from edge.measure.latency import LATENCY_COLUMNS, latency_cells
from edge.measure.launches import LAUNCHES
from edge.measure.power.find import find_meters
from edge.system import conditions, with_end

ONNXRUNTIME_NOTE = (
    "Compare times within a precision only: on a CPU, ONNX Runtime computes fp16 in fp32 and emulates int8 in float, "
    "which is slower than fp32. OpenVINO and TensorRT compute it in integers."
)
"""Explanation of the precisions' times."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge bench`."""
    add_bundle(parser)
    add_precisions(parser, "measure")
    add_backend(parser)
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        type=Path,
        metavar="OTHER",
        help="another bundle with the same labels, such as a smaller network, to measure in turns with this one",
    )
    parser.add_argument(
        "--energy", action="store_true", help="also measure the energy of each inference, which takes minutes"
    )


def main(arguments: argparse.Namespace) -> int:
    """Measure latency, and energy if asked to, on the bundle's reference samples."""
    key = required_key(arguments)
    bundle, *others = (Bundle.open(path, key) for path in (arguments.bundle, *arguments.beside))
    backend, _, threads = select(bundle, arguments.backend, threads=arguments.threads)
    beside = dict(zip(map(str, arguments.beside), others, strict=True))
    meters = find_meters() if arguments.energy else None
    reference, kind = bundle.reference(), bundle.manifest.input.kind
    names = arguments.precision or list(bundle.manifest.precisions)
    before = conditions()
    frames, labels = [frame_from_array(pixels, kind) for pixels in reference.frames], reference.labels.tolist()
    with ProgressDisplay() as display:
        results = {name: bench(bundle, name, backend, frames, labels, beside, display) for name in names}
    energy: dict[str, BenchEnergy] = {}
    try:
        if meters is not None:
            with ProgressDisplay() as display:
                for name, each in measure_precisions(bundle, backend, frames, beside, results, meters, display):
                    energy[name] = each
    finally:  # a meter that fails, or an interrupt, loses no latencies
        machine = with_end(before)
        if arguments.json:
            segments = {name: bundle.segments_digest(name) for name in names}
            run = {"backend": backend.name, "threads": threads, "segments": segments}
            print_json(run | {"conditions": machine, "precisions": to_json(results, energy)})
        else:
            print_bench(results)
            if energy:
                print_energy(energy)
            print_conditions(machine, backend.name, threads, several=len(results) > 1)
    return PASSED


def to_json(results: Mapping[str, BenchResult], energy: Mapping[str, BenchEnergy]) -> dict[str, Any]:
    """Return the results of each precision, with its energy where that was measured."""
    measured = {name: dataclasses.asdict(result) for name, result in results.items()}
    for name, result in energy.items():
        measured[name]["energy"] = dataclasses.asdict(result)
    return measured


def print_conditions(machine: Mapping[str, Any], backend: str, threads: int, *, several: bool) -> None:
    """Print the machine, and notes on the times; `several` precisions are not comparable on every backend."""
    if backend == "onnxruntime" and several:
        print(ONNXRUNTIME_NOTE)
    where = f"{machine['cpu']}, {machine['cores']} cores, load average {machine['load_average']}"
    print(f"{backend} on {where}, {threads} threads")
    for reason in machine["throttling"]:
        print(f"throttled: {reason}; measure again when the machine is cool, or in a lower power mode")


def print_bench(results: Mapping[str, BenchResult]) -> None:
    """Print latency, accuracy and speed-up over the whole network."""
    rows = []
    for precision, result in results.items():
        for workload, measurement in result.by_workload().items():
            accuracy = "" if measurement.accuracy is None else f"{measurement.accuracy:.2%}"
            shares = " / ".join(f"{share:.0%}" for share in measurement.exit_shares)
            speedup = f"{result.whole.latency_ms.mean / measurement.latency_ms.mean:.2f}x"
            name = classifier_name(workload)
            rows.append((precision, name, *latency_cells(measurement.latency_ms), speedup, accuracy, shares))
        rows.append((precision, "control loop", *latency_cells(result.control_ms), "", "", ""))
    columns = ("precision", "classifier", *LATENCY_COLUMNS, "speed-up", "accuracy", "exit shares")
    print_table(f"time from available frame to known decision, in turns, over {LAUNCHES} processes", columns, rows)
    for precision, result in results.items():
        for tuning in result.tunings[-1:]:
            timings = "; ".join(f"{name} {ms:.3f} ms" for name, ms in tuning.median_ms.items())
            print(f"{precision}: frames are {tuning.transfer}, threads {tuning.sync}; a frame to exit 0: {timings}")
