"""The CUDA runtime tried on this GPU: steps that each run in a process of their own, so that a crash is a row."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal, NamedTuple

from edge.errors import one_line

NOT_AVAILABLE = 4
"""Exit code of a process that found no GPU or lacks a library for it."""


class Step(NamedTuple):
    """A command with its time limit."""

    name: str
    command: Sequence[str]
    limit_s: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """Outcome of a step."""

    name: str
    state: Literal["passed", "failed", "crashed", "not run"]
    seconds: float
    detail: str
    """Last line that the step printed: its result or its error."""


def check_step(*checks: str, limit_s: float) -> Step:
    """Return a step that runs some of `edge.doctor.gpu_checks.CHECKS`; the last result is the detail."""
    name = ", ".join(checks).replace("_", " ")
    return Step(name, (sys.executable, "-m", "edge.doctor.gpu_checks", *checks), limit_s)


def gpu_steps() -> list[Step]:
    """Return the steps that need no bundle, no inference library and no torch; they take less than a minute."""
    names = ("nested_conditional_nodes", "exit_decisions", "preprocessing", "chain_as_graph_and_stepwise")
    return [check_step(name, limit_s=60) for name in names]


def run_step(step: Step) -> StepResult:
    """Run a step to its end or to its time limit."""
    if shutil.which(step.command[0]) is None:
        return StepResult(step.name, "not run", 0.0, f"{Path(step.command[0]).name} is not installed")
    started = perf_counter()
    try:
        done = subprocess.run(step.command, capture_output=True, text=True, timeout=step.limit_s, check=False)
    except subprocess.TimeoutExpired:
        return StepResult(step.name, "failed", perf_counter() - started, f"did not end within {step.limit_s:g} s")
    seconds = perf_counter() - started
    if done.returncode < 0:
        return StepResult(step.name, "crashed", seconds, f"ended by {signal.Signals(-done.returncode).name}")
    if done.returncode == 0:
        return StepResult(step.name, "passed", seconds, _last_line(done.stdout))
    state: Literal["not run", "failed"] = "not run" if done.returncode == NOT_AVAILABLE else "failed"
    return StepResult(step.name, state, seconds, _last_line(done.stderr or done.stdout))


def _last_line(text: str) -> str:
    return one_line(text.strip().rpartition("\n")[2])
