"""Error of the energy measurement, against a simulated sensor whose load is known."""

import argparse
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.results import add_output, command_line, write_result
from benchmarks.synthetic_meter import RAIL, Sensor, SyntheticMeter
from edge.console import FAILED, PASSED, ProgressDisplay, log, print_table
from edge.measure.cycles import Method
from edge.measure.energy import WorkloadEnergy, measure_energy
from edge.progress import OnProgress, ignore_progress
from edge.system import conditions, with_end

METHOD, SENSOR = Method(), Sensor()
MAX_ERROR = 0.02
KNOWN_MJ = {"light": 2.0, "heavy": 5.0}
"""Energy of an inference of each workload."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the comparison."""
    add_output(parser, "runs/energy_meter.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Measure known loads; exit code 1 if an error exceeds its limit."""
    before = conditions()
    with ProgressDisplay() as display:
        result = meter_error(display)
    run = {"command": command_line(), "conditions": with_end(before)}
    write_result(arguments.output, run | {"meter_error": result})
    workloads = result["workloads"]
    rows = [
        (name, *(f"{row[key]:.4g}" for key in ("known_mj", "measured_mj", "plus_minus_mj")), f"{row['error']:+.2%}")
        for name, row in workloads.items()
    ]
    title = f"net energy per inference; the sensor updates every {result['update_interval_ms']:.0f} ms as measured"
    print_table(title, ("workload", "known mJ", "measured mJ", "± mJ", "error"), rows)
    log(f"wrote {arguments.output}")
    return PASSED if result["passed"] else FAILED


def meter_error(on_progress: OnProgress = ignore_progress) -> dict[str, Any]:
    """Measure inferences of known energy; return the relative error of each workload's net energy."""
    with TemporaryDirectory() as folder, SyntheticMeter(Path(folder), SENSOR) as synthetic:
        runs = {name: synthetic.inference(energy_mj) for name, energy_mj in KNOWN_MJ.items()}
        measured = measure_energy(runs, synthetic.meters(), METHOD, on_progress=on_progress)
    key = f"ina/{RAIL}"
    rows = {name: _compare(known_mj, measured.workloads[name], key) for name, known_mj in KNOWN_MJ.items()}
    largest = max(abs(row["error"]) for row in rows.values())
    return {
        "passed": largest <= MAX_ERROR,
        "largest_error": largest,
        "limit": MAX_ERROR,
        "update_interval_ms": measured.rails[key].update_interval_ms,
        "sensor": asdict(SENSOR),
        "method": asdict(METHOD),
        "workloads": rows,
    }


def _compare(known_mj: float, workload: WorkloadEnergy, rail: str) -> dict[str, Any]:
    net_mj = workload.rails[rail].net_mj
    return {
        "known_mj": known_mj,
        "measured_mj": net_mj.mean,
        "plus_minus_mj": net_mj.plus_minus,
        "error": net_mj.mean / known_mj - 1,
        "problems": [*workload.problems, *workload.rails[rail].problems],
    }
