"""The acceptance run on this machine, and its verdicts."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from edge.bundle.bundle import Bundle
from edge.measure.energy import RailEnergy, WorkloadEnergy
from edge.measure.rounds import MeanEstimate
from tests.support.commands import ROOT, TIMEOUT_S

SCRIPT = ROOT / "jetson" / "acceptance.py"
STEPS = ["doctor", "build", "verify", "bench", "live"]


def accept(bundle: Path, output: Path, *words: str) -> Any:
    """Accept a bundle on the CPU."""
    command = [sys.executable, SCRIPT, bundle, "--backend", "onnxruntime", "--output", output, *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=2 * TIMEOUT_S)


def test_a_bundle_is_accepted_with_a_page_to_sign(digits_bundle: Bundle, tmp_path: Path) -> None:
    done = accept(digits_bundle.path, tmp_path, "--source", "test://?size=64x64&rate=30", "--seconds", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "acceptance.json").read_text())
    assert [step["name"] for step in report["steps"]] == STEPS
    page = (tmp_path / "acceptance.md").read_text()
    assert page.startswith(f"# {digits_bundle.path.name} on ")
    assert page.splitlines()[0].endswith(": accepted")
    assert "Signed off by: " in page
    assert "same exit on 100.00%" in page


def test_a_folder_that_is_no_bundle_is_refused_before_anything_runs(tmp_path: Path) -> None:
    done = accept(tmp_path / "nothing", tmp_path / "output")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no bundle at ")
    assert not (tmp_path / "output").exists()


@pytest.fixture(scope="module")
def judge() -> Any:
    """Return the script's functions by name."""
    return runpy.run_path(str(SCRIPT))


def frame(second: float) -> dict[str, Any]:
    time = f"2026-11-27T18:00:{second:06.3f}Z"
    return {"time": time, "frame": 0, "latency_ms": 3.0, "exit_index": 0, "dropped": 0}


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([frame(0.5), frame(1.5), frame(3.4)], None),
        ([frame(0.5), frame(3.0)], "a pause of 2.5 s"),
        ([frame(0.5), {"status": "lost", "reason": "unplugged"}, frame(1.5)], "lost: unplugged"),
        ([{"status": "lost", "reason": "refused"}], "lost: refused"),
        ([], "no frame was classified"),
    ],
)
def test_pauses_and_lost_cameras_fail_a_live_run(lines: Any, fault: str | None, judge: Any) -> None:
    passed, findings = judge["judge_live"](lines)
    assert passed == (fault is None)
    assert fault is None or fault in findings


def bench_result(rail_problems: tuple[str, ...] = (), problems: tuple[str, ...] = ()) -> Any:
    """Return the output of `edge bench --energy --json`, as far as it is judged."""
    energy, net = MeanEstimate(12.34, 0.56), MeanEstimate(10.0, 0.5)
    rails = {"ina/VDD_IN": RailEnergy(energy, net, 9000.0, 5000.0, rail_problems)}
    workload = WorkloadEnergy(2.0, 1000, rails, problems)
    precision = {
        "early_exit": {"latency_ms": {"mean": 2.0, "p99": 2.5}},
        "whole": {"latency_ms": {"mean": 4.0, "p99": 4.5}},
        "energy": {"energy": {"workloads": {"early_exit": asdict(workload)}}},
    }
    return {"conditions": {"throttling": []}, "precisions": {"fp16": precision}}


def test_energy_is_reported_with_its_uncertainty(judge: Any) -> None:
    assert judge["judge_bench"](bench_result()) == (
        True,
        [
            "fp16: early exits 2.000 ms on average, p99 2.500 ms",
            "fp16: 2.00x as fast as the whole network",
            "fp16, ina/VDD_IN: 12.3 ± 0.56 mJ a frame",
        ],
    )


def test_a_rail_with_problems_is_not_valid(judge: Any) -> None:
    _, findings = judge["judge_bench"](bench_result(rail_problems=("rounds differ", "the reading changed only once")))
    rail = (
        "fp16, ina/VDD_IN: 12.3 ± 0.56 mJ a frame, not valid: rounds differ, not valid: the reading changed only once"
    )
    assert findings[-1] == rail


def test_a_machine_that_changed_during_the_loops_fails(judge: Any) -> None:
    moved = "clock of gpu moved between 306 and 918 MHz"
    passed, findings = judge["judge_bench"](bench_result(problems=(moved,)))
    assert (passed, findings[-1]) == (False, f"fp16, energy is not valid: {moved}")
