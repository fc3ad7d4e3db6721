"""`python -m benchmarks gpu`: everything to know about a GPU, in at most eight minutes.

Each step runs in a process of its own and writes its row as it ends, so that a crash is a row and not the end.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.results import add_output, command_line, write_result
from edge.console import FAILED, PASSED, log, print_table
from edge.doctor.gpu import Step, StepResult, check_step, gpu_steps, run_step
from edge.errors import UnavailableError
from edge.system import conditions

LIMIT_S = 480.0
"""Time of all steps together; a step that would start later is not run."""


class Bar(NamedTuple):
    """A figure of a report, with the bound that it must keep."""

    figure: str
    report: str
    keys: tuple[str, ...]
    relation: str
    bound: float

    def row(self, folder: Path) -> tuple[str, str, str, str]:
        """Return verdict, figure, value and bound; the value is from the report in a folder."""
        path, bound = folder / self.report, f"{self.relation} {self.bound:g}"
        value: Any = json.loads(path.read_text()) if path.exists() else None
        for key in self.keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, float | int):
            return "not run", self.figure, "", bound
        passed = value >= self.bound if self.relation == ">=" else value <= self.bound
        return "passed" if passed else "failed", self.figure, f"{value:.3g}", bound


CHAIN, PIPELINE, TORCH = "cuda_chain.json", "cuda_pipeline.json", "cuda_torch.json"
BARS = (
    Bar("realised share of the ideal saving", CHAIN, ("realised_saving",), ">=", 0.95),
    Bar("one graph over stepwise, 20 us segments", CHAIN, ("stepwise_over_graph_p50",), ">=", 1.3),
    Bar("cost of an untaken condition, us", CHAIN, ("untaken_condition_us",), "<=", 5),
    Bar("four slots over one, small network", TORCH, ("pipeline", "speed_up"), ">=", 1.8),
    Bar("p99 over p50 of the latency", TORCH, ("pipeline", "p99_over_p50"), "<=", 1.3),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    add_output(parser, "runs/gpu", "FOLDER")


def suite(folder: Path) -> list[Step]:
    """Return the steps in order; the first reveal a faulty GPU."""
    benchmark = (sys.executable, "-m", "benchmarks")
    checked = check_step("exit_decisions", "preprocessing", limit_s=120)
    return [
        *gpu_steps(),
        Step("captures beside synchronisation", (sys.executable, "-m", "benchmarks.gpu.captures"), 60),
        Step("chain", (*benchmark, "cuda-chain", "--output", str(folder / CHAIN)), 120),
        Step("pipeline", (*benchmark, "cuda-pipeline", "--output", str(folder / PIPELINE)), 60),
        Step("torch", (*benchmark, "cuda-torch", "--output", str(folder / TORCH)), 120),
        Step("compute-sanitizer", ("compute-sanitizer", "--error-exitcode", "1", *checked.command), checked.limit_s),
    ]


def run_suite(steps: list[Step], output: Path) -> list[StepResult]:
    """Run the steps within the time limit; write the results so far after each.

    Raises:
        UnavailableError: there is no GPU, or a library for it is missing, as the first step finds out.
    """
    started, results = perf_counter(), list[StepResult]()
    for step in steps:
        left_s = LIMIT_S - (perf_counter() - started)
        result = StepResult(step.name, "not run", 0.0, f"{LIMIT_S:g} s are over")
        if left_s > 0:
            result = run_step(step._replace(limit_s=min(step.limit_s, left_s)))
        if not results and result.state == "not run":
            raise UnavailableError(result.detail)
        results.append(result)
        log(f"{result.name}: {result.state}, {result.seconds:.1f} s: {result.detail}")
        rows = [dataclasses.asdict(result) for result in results]
        write_result(output, {"command": command_line(), "conditions": conditions(), "steps": rows})
    return results


def main(arguments: argparse.Namespace) -> int:
    """Run all steps; the exit code is 1 if one fails or a bar is missed."""
    folder: Path = arguments.output
    for report in (CHAIN, PIPELINE, TORCH):
        (folder / report).unlink(missing_ok=True)  # a step that fails leaves the report of an earlier run
    results = run_suite(suite(folder), folder / "gpu.json")
    rows = [(result.state, result.name, f"{result.seconds:.1f}", result.detail) for result in results]
    print_table("steps", ("state", "step", "seconds", "detail"), rows)
    bars = [bar.row(folder) for bar in BARS]
    print_table("bars", ("state", "figure", "value", "bound"), bars)
    states = [result.state for result in results] + [state for state, *_ in bars]
    return FAILED if {"failed", "crashed"} & set(states) else PASSED
