"""`python -m benchmarks gpu`: its rows, bars and time limit; the captures on a stand-in for a GPU."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from benchmarks import gpu_suite
from benchmarks.gpu_suite import BARS, CHAIN, TORCH, run_suite, suite
from edge.doctor.gpu import Step, StepResult
from edge.errors import EngineError, UnavailableError
from tests.support.commands import TIMEOUT_S
from tests.support.cuda_stand_in import World

STEP = Step("step", ("command",), 60)


def test_each_row_is_written_as_its_step_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, written = tmp_path / "gpu.json", []

    def run(step: Step) -> StepResult:
        written.append(len(json.loads(output.read_text())["steps"]) if output.exists() else 0)
        return StepResult(step.name, "crashed", 1.0, "ended by SIGSEGV")

    monkeypatch.setattr(gpu_suite, "run_step", run)
    run_suite([STEP] * 3, output)
    assert written == [0, 1, 2]
    assert [row["state"] for row in json.loads(output.read_text())["steps"]] == ["crashed"] * 3


def test_steps_share_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, limits = [0.0], []

    def run(step: Step) -> StepResult:
        limits.append(step.limit_s)
        now[0] += 300
        return StepResult(step.name, "passed", 300.0, "")

    monkeypatch.setattr(gpu_suite, "perf_counter", lambda: now[0])
    monkeypatch.setattr(gpu_suite, "run_step", run)
    results = run_suite([STEP._replace(limit_s=400)] * 3, tmp_path / "gpu.json")
    assert limits == [400, 180]
    assert [result.state for result in results] == ["passed", "passed", "not run"]


def test_bars_are_read_from_the_reports(tmp_path: Path) -> None:
    assert {bar.row(tmp_path)[0] for bar in BARS} == {"not run"}
    figures = {"realised_saving": 0.96, "stepwise_over_graph_p50": 1.2, "untaken_condition_us": 5.0}
    (tmp_path / CHAIN).write_text(json.dumps(figures))
    (tmp_path / TORCH).write_text(json.dumps({"pipeline": {"speed_up": 1.8}}))
    assert [bar.row(tmp_path)[0] for bar in BARS] == ["passed", "failed", "passed", "passed", "not run"]


def test_without_a_gpu_the_first_step_gives_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_suite, "run_step", lambda step: StepResult("step", "not run", 1.0, "no GPU"))
    with pytest.raises(UnavailableError, match="no GPU"):
        run_suite([STEP], tmp_path / "gpu.json")


CODES = {("passed",): 0, ("passed", "not run"): 0, ("passed", "crashed"): 1, ("failed",): 1}


@pytest.mark.parametrize("states", CODES)
def test_the_exit_code_is_1_if_a_step_fails(states: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [StepResult("step", state, 1.0, "") for state in states]
    monkeypatch.setattr(gpu_suite, "run_suite", lambda steps, output: results)
    assert gpu_suite.main(argparse.Namespace(output=tmp_path)) == CODES[states]


def test_the_suite_begins_with_the_checks_of_doctor_and_ends_within_its_limit(tmp_path: Path) -> None:
    names = [step.name for step in suite(tmp_path)]
    assert names[0] == "nested conditional nodes"
    assert names[-5:] == ["captures beside synchronisation", "chain", "pipeline", "torch", "compute-sanitizer"]


def test_the_chain_runs_after_captures_that_another_thread_spoilt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import captures

    capture, deadline, is_alone = captures.capture, monotonic() + TIMEOUT_S, iter([True])

    def spoilt_capture(enqueue: Callable[[int], None]) -> Any:
        if next(is_alone, False):  # the first capture has no thread beside it
            return capture(enqueue)

        def enqueue_after_synchronisation(stream: int) -> None:
            before = world.calls["context synchronize"]
            while world.calls["context synchronize"] < before + 2:  # the second began after the capture
                assert monotonic() < deadline, "the other thread ended"
                sleep(0)
            enqueue(stream)

        return capture(enqueue_after_synchronisation)

    monkeypatch.setattr(captures, "CAPTURES", 5)
    monkeypatch.setattr(captures, "capture", spoilt_capture)
    result = captures.captures_beside_synchronisation()
    assert result.startswith("5 of 5 captures were spoilt, each with an error; ")
    assert int(result.split("; ")[1].split()[0]) >= 5


@pytest.mark.parametrize("succeeding", [0, 1])
def test_an_error_that_names_no_capture_fails_the_captures(
    succeeding: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import captures

    capture, calls = captures.capture, iter(range(3))

    def broken_capture(enqueue: Any) -> Any:
        if next(calls) < succeeding:
            return capture(enqueue)
        raise ImportError("cannot import name 'launch'")

    monkeypatch.setattr(captures, "capture", broken_capture)
    with pytest.raises(EngineError, match="ImportError: cannot import name 'launch'"):
        captures.captures_beside_synchronisation()


def test_a_first_capture_that_is_spoilt_fails_the_captures(world: World) -> None:
    from benchmarks.gpu import captures

    world.failing["invalidated"] = RuntimeError()
    with pytest.raises(EngineError, match="CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
        captures.captures_beside_synchronisation()


def test_a_thread_that_ends_early_fails_the_captures(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import captures

    monkeypatch.setattr(captures, "CAPTURES", 1)
    world.failing["context synchronize"] = RuntimeError("no thread")
    with pytest.raises(EngineError, match="synchronising failed: RuntimeError: no thread"):
        captures.captures_beside_synchronisation()


def test_reports_of_an_earlier_run_are_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / CHAIN).write_text(json.dumps({"realised_saving": 0.5}))
    monkeypatch.setattr(gpu_suite, "run_suite", lambda steps, output: [])
    assert gpu_suite.main(argparse.Namespace(output=tmp_path)) == 0
