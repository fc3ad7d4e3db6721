"""`python -m benchmarks harness` in short: planted slow-downs are found, and every figure is recorded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.__main__ import main
from benchmarks.comparison.sides import Side
from benchmarks.comparison.turns import compare
from benchmarks.comparison.verdict import confirmed
from edge.bundle.bundle import Bundle
from edge.console import PASSED
from tests.support.commands import call, error_line
from tests.support.meters import SHORT


def test_a_planted_slow_down_is_found_with_real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.comparison.turns.LAUNCHES", 3)
    control = Side("A")
    passes = compare(control, replace(control, name="B", slow_down=1.0))  # large, since tests share the machine
    assert confirmed(passes) == "slower"
    assert passes[0].b_over_a.value == pytest.approx(2.0, abs=0.5)


def test_every_figure_with_a_target_is_recorded(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "REPEATS", 1)
    monkeypatch.setattr("benchmarks.comparison.turns.LAUNCHES", 1)
    monkeypatch.setattr("benchmarks.energy_meter.METHOD", SHORT)
    output = tmp_path / "harness.json"
    done = call(main, "harness", digits_bundle.path, "--trials", 1, "--output", output)
    assert done.code == PASSED, done.stderr
    recorded = json.loads(output.read_text())
    assert set(harness.TARGETS) <= set(recorded)
    assert set(recorded["detection"]["found"]) == {"share", "trials", "interval"}
    ratios = recorded["bench"]["ratios_to_control"]
    assert list(ratios) == [
        f"fp32 {name}" for name in ("whole", "early exit", "exit 0 forced", "exit 1 forced", "exit 2 forced")
    ]
    assert all(len(values) == 1 and min(values) > 0 for values in ratios.values())
    assert "false alarms" in done.stdout


def test_a_bundle_that_cannot_be_measured_gives_the_reason(tmp_path: Path) -> None:
    assert "manifest.json" in error_line(call(main, "harness", tmp_path, "--output", tmp_path / "harness.json"))


@pytest.mark.parametrize(
    ("values", "expected"), [([2.0], 0.0), ([1.0, 2.0, 3.0], 1.0), ([10.0, 10.1, 10.3], 0.3 / 10.1)]
)
def test_the_range_of_repeated_runs_is_relative_to_their_median(values: list[float], expected: float) -> None:
    assert harness.relative_range(values) == pytest.approx(expected)


def test_a_share_has_the_interval_of_clopper_and_pearson() -> None:
    assert harness.share([True] * 80) == {
        "share": 1.0,
        "trials": 80,
        "interval": [pytest.approx(0.025 ** (1 / 80)), 1.0],
    }
