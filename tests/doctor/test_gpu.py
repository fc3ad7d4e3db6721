"""Steps on a GPU: their checks on a stand-in, and processes that fail, crash or hang."""

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

from edge.cli import doctor
from edge.doctor import gpu_checks
from edge.doctor.gpu import Step, StepResult, gpu_steps, run_step
from edge.errors import EngineError, UnavailableError
from edge.system import pip_install
from tests.support.cuda_stand_in import World

CHECKS = {
    gpu_checks.nested_conditional_nodes: "three exits in one graph work on sm_87",
    gpu_checks.exit_decisions: "3000 decisions equal the exit rule",
    gpu_checks.preprocessing: "4 pixel formats equal the host's",
    gpu_checks.chain_as_graph_and_stepwise: "3 exits forced in both modes, one wait per frame as a graph",
}


def test_every_check_is_a_step() -> None:
    assert [step.command[-1] for step in gpu_steps()] == list(gpu_checks.CHECKS)
    assert list(gpu_checks.CHECKS.values()) == list(CHECKS)


def test_checks_run_in_turn_and_print_their_results(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("preprocessing", "nested_conditional_nodes")
    assert gpu_checks.run_checks(gpu_checks.CHECKS[name] for name in names) == 0
    assert capsys.readouterr().out.splitlines() == [CHECKS[gpu_checks.CHECKS[name]] for name in names]


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="pycuda is installed")
def test_a_step_without_pycuda_is_not_run_and_has_the_remedy() -> None:
    result = run_step(gpu_steps()[0])
    assert result.state == "not run"
    assert pip_install("cuda13") in result.detail


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_passes_on_a_gpu_that_is_right(check: Any, world: World) -> None:
    assert check() == CHECKS[check]


@pytest.mark.parametrize("field", ["label_index", "confidence", "is_final"])
def test_wrong_decisions_are_an_error(field: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    decide = gpu_checks._decide

    def decide_wrongly(logits: Any) -> Any:
        decisions = decide(logits)
        decisions[field][7] += 1
        return decisions

    monkeypatch.setattr(gpu_checks, "_decide", decide_wrongly)
    with pytest.raises(EngineError, match="differ; report this" if field != "is_final" else "from the exit rule"):
        gpu_checks.exit_decisions()


def test_wrong_preprocessing_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess = gpu_checks._preprocess
    monkeypatch.setattr(gpu_checks, "_preprocess", lambda frame: preprocess(frame) + np.float32(0.1))
    with pytest.raises(EngineError, match=r"BGR differs by .* levels of 255"):
        gpu_checks.preprocessing()


@pytest.mark.parametrize("check", [gpu_checks.nested_conditional_nodes, gpu_checks.chain_as_graph_and_stepwise])
def test_a_gpu_without_graphs_fails_with_the_reason(check: Any, world: World) -> None:
    world.run_bodies = True
    with pytest.raises(EngineError, match=r"predicted .* instead of"):
        check()


PROGRAMS = {
    "print('fine'); print('3 of 3')": ("passed", "3 of 3"),
    "import sys; print('first', file=sys.stderr); sys.exit('wrong')": ("failed", "wrong"),
    "import sys; print('no GPU', file=sys.stderr); sys.exit(4)": ("not run", "no GPU"),
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": ("crashed", "ended by SIGKILL"),
    "import time; time.sleep(60)": ("failed", "did not end within 2 s"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_end_of_a_process_is_the_state_of_its_step(program: str) -> None:
    result = run_step(Step("step", (sys.executable, "-c", program), 2))
    assert (result.state, result.detail) == PROGRAMS[program]


def test_a_missing_command_is_not_run() -> None:
    result = run_step(Step("step", ("no-such-command",), 1))
    assert (result.state, result.detail) == ("not run", "no-such-command is not installed")


CODES = {("passed", "passed"): 0, ("passed", "crashed"): 1, ("failed", "passed"): 1}


@pytest.mark.parametrize("states", CODES)
def test_the_exit_code_is_1_if_a_step_fails(states: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    take_turns(states, monkeypatch)
    assert doctor.try_gpu(as_json=True) == CODES[states]


def test_without_a_gpu_the_first_step_gives_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    take_turns(["not run"], monkeypatch)
    with pytest.raises(UnavailableError, match="no GPU"):
        doctor.try_gpu(as_json=True)


def take_turns(states: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the steps end in these states."""
    results = iter([StepResult("step", state, 1.0, "no GPU") for state in states])
    monkeypatch.setattr(doctor, "gpu_steps", lambda: [Step("step", (), 1)] * len(states))
    monkeypatch.setattr(doctor, "run_step", lambda step: next(results))
