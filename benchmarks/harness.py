"""The measurements themselves measured: planted slow-downs found, repeated runs of `edge bench`, overhead per call."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from benchmarks.comparison.recorded import Recorded, recorded_run
from benchmarks.comparison.sides import Side
from benchmarks.comparison.turns import LAUNCHES, ROUNDS, compare
from benchmarks.comparison.verdict import Comparison, confirmed
from benchmarks.energy_meter import meter_error
from benchmarks.results import add_output, command_line, write_result
from edge.console import PASSED, ProgressDisplay, at_least, print_table, track
from edge.errors import EdgeError
from edge.measure.interleave import interleave
from edge.progress import OnProgress
from edge.progress import track as track_progress
from edge.system import conditions, with_end

TRIALS = 80
SLOW_DOWN = 0.05
PRECISION = "fp32"
REPEATS = 5
NO_OPS, NO_OP_ROUNDS = 5, 20_000
TARGETS = {
    "found": ">= 95 %", "false_alarms": "<= 5 %", "bench_range": "<= 3 %", "overhead_us": "<= 2",
    "meter_error": "<= 2 %",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the validation."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle that `edge bench` measures repeatedly")
    parser.add_argument(
        "--trials",
        type=at_least(1),
        default=TRIALS,
        metavar="N",
        help="comparisons of each kind (default: %(default)s)",
    )
    add_output(parser, "runs/harness.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Validate, print and record.

    Raises:
        EdgeError: a side or `edge bench` failed.
    """
    before = conditions()
    result: dict[str, Any] = {"overhead": overhead()}
    result["bench"] = repeated_bench(arguments.bundle)
    with ProgressDisplay() as display:
        result["detection"] = detection(arguments.trials, display)
        result["meter"] = meter_error(display)
    figures = summarise(result)
    write_result(arguments.output, figures | result | {"command": command_line(), "conditions": with_end(before)})
    print_table("the measurements themselves", ("figure", "value", "target"), table_rows(result))
    print(f"wrote {arguments.output}")
    return PASSED


def overhead() -> dict[str, float]:
    """Return the time that interleaving takes for a call that does nothing, and the time that it reports for it."""
    calls = [_no_op] * NO_OPS
    interleave(calls, range(NO_OP_ROUNDS // 10))
    [whole] = interleave([lambda _: interleave(calls, range(NO_OP_ROUNDS))], [None])
    reported = np.concatenate([timed.times_ms for timed in whole.results[0]])
    return {
        "us_per_call": float(whole.times_ms[0]) * 1e3 / (NO_OPS * NO_OP_ROUNDS),
        "reported_p50_us": float(np.median(reported)) * 1e3,
    }


def repeated_bench(bundle: Path) -> dict[str, Any]:
    """Run `edge bench` repeatedly, and return the range of each classifier's ratio to the control loop.

    Raises:
        EdgeError: `edge bench` failed.
    """
    runs = [bench_ratios(bundle) for _ in track(range(REPEATS), "edge bench, repeated")]
    ratios = {name: [run.ratios[name] for run in runs] for name in runs[0].ratios}
    return {
        "precision": PRECISION,
        "ratios_to_control": ratios,
        "relative_range": {name: relative_range(values) for name, values in ratios.items()},
    }


def bench_ratios(bundle: Path) -> Recorded:
    """Run `edge bench` in a process of its own, and return its ratios to the control loop."""
    command = [sys.executable, "-m", "edge", "bench", str(bundle), "--precision", PRECISION, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgeError(done.stderr.strip().removeprefix("error: "))
    return recorded_run(bundle.name, json.loads(done.stdout))


def relative_range(values: Sequence[float]) -> float:
    """Return the distance between the lowest and highest value, relative to their median."""
    return float((max(values) - min(values)) / np.median(values))


def detection(trials: int, on_progress: OnProgress) -> dict[str, Any]:
    """Compare the control loop with itself, with and without a planted slow-down, and count the verdicts.

    Raises:
        EdgeError: a side failed.
    """
    a, equal, slow = Side("A"), Side("B"), Side("B", slow_down=SLOW_DOWN)
    outcomes: dict[str, list[list[Comparison]]] = {"planted": [], "equal": []}
    for _ in track_progress(range(trials), "trials", on_progress):
        outcomes["planted"].append(compare(a, slow))
        outcomes["equal"].append(compare(a, equal))
    found = [confirmed(passes) == "slower" for passes in outcomes["planted"]]
    alarms = [confirmed(passes) != "level" for passes in outcomes["equal"]]
    first = [passes[0] for passes in outcomes["equal"]]
    return {
        "slow_down": SLOW_DOWN,
        "launches": LAUNCHES,
        "rounds": ROUNDS,
        "found": share(found),
        "false_alarms": share(alarms),
        "false_alarms_of_the_first_pass": share([one_pass.verdict != "level" for one_pass in first]),
        "interval_coverage": share([one_pass.b_over_a.low <= 1 <= one_pass.b_over_a.high for one_pass in first]),
        "noise_floor_p50": float(np.median([one_pass.noise_floor for one_pass in first])),
        "planted_ratio_p50": float(np.median([passes[0].b_over_a.value for passes in outcomes["planted"]])),
    }


def share(outcomes: Sequence[bool]) -> dict[str, Any]:
    """Return the share of true outcomes with its Clopper-Pearson interval of 95 %."""
    interval = binomtest(sum(outcomes), len(outcomes)).proportion_ci()
    return {
        "share": sum(outcomes) / len(outcomes),
        "trials": len(outcomes),
        "interval": [float(interval.low), float(interval.high)],
    }


def summarise(result: dict[str, Any]) -> dict[str, float]:
    """Return the figures that have a target."""
    return {
        "found": result["detection"]["found"]["share"],
        "false_alarms": result["detection"]["false_alarms"]["share"],
        "bench_range": max(result["bench"]["relative_range"].values()),
        "overhead_us": result["overhead"]["us_per_call"],
        "meter_error": result["meter"]["largest_error"],
    }


def table_rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the table of figures beside their targets."""
    figures, detected = summarise(result), result["detection"]
    intervals = {
        name: " ({:.1%} to {:.1%}, {} trials)".format(*detected[name]["interval"], detected[name]["trials"])
        for name in ("found", "false_alarms")
    }
    return [
        ("planted slow-down of 5 % found", f"{figures['found']:.1%}{intervals['found']}", TARGETS["found"]),
        ("false alarms", f"{figures['false_alarms']:.1%}{intervals['false_alarms']}", TARGETS["false_alarms"]),
        (f"range of {REPEATS} runs of edge bench", f"{figures['bench_range']:.1%}", TARGETS["bench_range"]),
        ("overhead of a call, us", f"{figures['overhead_us']:.2f}", TARGETS["overhead_us"]),
        ("error of energy, of a known load", f"{figures['meter_error']:.2%}", TARGETS["meter_error"]),
    ]


def _no_op(_: int) -> None:
    """Do nothing."""
