"""`python -m benchmarks compare`: verdicts, sides of each kind, failing sides, and recorded runs."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import compare
from benchmarks.__main__ import main
from benchmarks.comparison.recorded import read_recorded
from benchmarks.comparison.sides import Side, Worker
from benchmarks.comparison.turns import LAUNCHES, ROUNDS
from benchmarks.comparison.verdict import Comparison, compare_times, confirmed
from edge.bundle.bundle import Bundle
from edge.cli.parser import CommandParser
from edge.console import FAILED, PASSED, UNAVAILABLE
from edge.errors import DataError, EdgeError
from tests.support.commands import ROOT, call, error_line

LAUNCH_NOISE, ROUND_NOISE = 0.008, 0.02
"""Relative standard deviations between launches and between turns, as measured on a busy virtual machine."""


def synthetic_pass(slow_down: float, seed: int) -> Comparison:
    """Return a pass on a machine whose speed drifts by a third."""
    generator = np.random.default_rng(seed)
    drift = np.linspace(1.0, 1.3, LAUNCHES * ROUNDS).reshape(LAUNCHES, ROUNDS)

    def times(factor: float) -> np.ndarray:
        launch = generator.normal(1, LAUNCH_NOISE, (LAUNCHES, 1))
        disturbance = np.where(generator.random((LAUNCHES, ROUNDS)) < 0.1, 2.0, 1.0)
        return factor * drift * launch * generator.normal(1, ROUND_NOISE, (LAUNCHES, ROUNDS)) * disturbance

    return compare_times(times(1.0), times(1.0), times(1 + slow_down), times(0.5))


@pytest.mark.parametrize(
    ("slow_down", "verdict", "lowest", "highest"),
    [(0.0, "slower", 0.0, 0.05), (0.0, "faster", 0.0, 0.05), (0.05, "slower", 0.95, 1.0), (-0.05, "faster", 0.95, 1.0)],
)
def test_two_passes_find_five_percent_and_seldom_raise_false_alarms(
    slow_down: float, verdict: str, lowest: float, highest: float
) -> None:
    trials = 100
    verdicts = [
        confirmed([synthetic_pass(slow_down, 2 * k), synthetic_pass(slow_down, 2 * k + 1)]) for k in range(trials)
    ]
    assert lowest <= verdicts.count(verdict) / trials <= highest


def test_a_difference_within_the_noise_floor_has_no_verdict() -> None:
    noisy = replace(synthetic_pass(0.05, 0), a_over_itself=synthetic_pass(0.05, 0).b_over_a)
    assert noisy.noise_floor > abs(noisy.b_over_a.value - 1)
    assert noisy.verdict == "level"


def test_a_single_pass_confirms_nothing_and_passes_that_differ_neither() -> None:
    slower, faster = synthetic_pass(0.2, 0), synthetic_pass(-0.2, 1)
    assert (slower.verdict, faster.verdict) == ("slower", "faster")
    assert confirmed([slower]) == confirmed([slower, faster]) == "level"


def test_a_regression_is_exit_code_1_and_is_recorded(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A side that runs in a third of the time in one checkout than in the other."""
    monkeypatch.setattr("benchmarks.comparison.turns.LAUNCHES", 3)
    slow = checkout_with_slow_classifier(tmp_path / "slow")
    output = tmp_path / "compare.json"
    options = ("--bundle", digits_bundle.path, "--precision", "fp32", "--backend", "onnxruntime", "--output", output)
    result = call(main, "compare", ROOT, slow, *options)
    assert result.code == FAILED, result.stdout + result.stderr
    assert "slower than A; a second pass with newly loaded sides confirms it" in result.stdout
    recorded = json.loads(output.read_text())
    assert recorded["verdict"] == "slower"
    assert [side["checkout"] for side in recorded["sides"]] == [str(ROOT), str(slow)]
    assert [one_pass["verdict"] for one_pass in recorded["passes"]] == ["slower", "slower"]
    assert recorded["passes"][0]["b_over_a"]["low"] > 1
    assert {"revision", "throttling", "after"} <= set(recorded["conditions"])


def test_checkouts_do_not_share_engines(digits_bundle: Bundle, tmp_path: Path) -> None:
    parser = CommandParser()
    compare.add_arguments(parser)
    arguments = parser.parse_args([str(ROOT), str(ROOT), "--bundle", str(digits_bundle.path)])
    a, b = compare.parse_sides(arguments, tmp_path)
    assert a.environment()["EDGE_CACHE"] != b.environment()["EDGE_CACHE"] != os.environ["EDGE_CACHE"]


def checkout_with_slow_classifier(folder: Path) -> Path:
    """Write a copy of `edge` that classifies each frame four times."""
    shutil.copytree(ROOT / "edge", folder / "edge", ignore=shutil.ignore_patterns("__pycache__"))
    classifier = folder / "edge" / "inference" / "classifier.py"
    classifier.write_text(
        classifier.read_text() + "\n\n_once = Classifier.predict\n\n"
        "Classifier.predict = lambda self, frame: [_once(self, frame) for _ in range(4)][-1]\n"
    )
    return folder


def test_a_bundle_against_itself_is_level(digits_bundle: Bundle, tmp_path: Path) -> None:
    same = shutil.copytree(digits_bundle.path, tmp_path / "same")
    result = call(main, "compare", digits_bundle.path, same, "--precision", "fp32", "--output", tmp_path / "out.json")
    assert result.code == PASSED, result.stdout + result.stderr
    assert json.loads((tmp_path / "out.json").read_text())["verdict"] == "level"


def test_a_side_that_cannot_be_loaded_gives_its_reason(digits_bundle: Bundle, tmp_path: Path) -> None:
    options = ("--bundle", digits_bundle.path, "--output", tmp_path / "out.json")
    missing = error_line(call(main, "compare", "onnxruntime", "tensorrt", *options), UNAVAILABLE)
    assert missing.startswith("side B ended: ")
    assert "tensorrt" in missing
    wrong = error_line(call(main, "compare", digits_bundle.path, digits_bundle.path, "--precision", "int4"))
    assert "int4" in wrong
    assert not (tmp_path / "out.json").exists()


def test_a_side_that_dies_in_its_turn_is_an_error() -> None:
    with Worker(Side("A")) as worker:
        worker.wait_until_ready()
        assert worker.turn(0) > 0
        os.kill(worker._process.pid, 9)
        with pytest.raises(EdgeError, match="side A ended: exit code -9"):
            worker.turn(1)


def test_the_output_of_libraries_does_not_disturb_the_answers(tmp_path: Path) -> None:
    (tmp_path / "edge" / "measure").mkdir(parents=True)
    for name in ("", "measure/"):
        (tmp_path / "edge" / name / "__init__.py").touch()
    (tmp_path / "edge" / "errors.py").write_text("class EdgeError(Exception): exit_code = 2\n")
    (tmp_path / "edge" / "measure" / "control.py").write_text(
        "import os\nos.system('echo chatter')\ndef control_loop(): print('chatter', flush=True)\n"
    )
    with Worker(Side("A", checkout=tmp_path)) as worker:
        worker.wait_until_ready()
        assert worker.turn(0) > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("onnxruntime", "nowhere"), "nowhere is not a bundle, checkout, backend or recorded file"),
        (("onnxruntime", ROOT), "onnxruntime is a backend, .* a checkout; name two of a kind"),
        (("onnxruntime", "tensorrt"), "A and B are backends; add --bundle"),
        ((ROOT, ROOT), "A and B are checkouts; add --bundle"),
        (("{bundle}", "{bundle}", "--bundle", "{bundle}"), "A and B are bundles; leave out --bundle"),
    ],
)
def test_sides_that_do_not_fit_are_refused(words: tuple[Any, ...], message: str, digits_bundle: Bundle) -> None:
    filled = (str(word).format(bundle=digits_bundle.path) for word in words)
    assert_matches(message, error_line(call(main, "compare", *filled)))


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(EdgeError, match=pattern):
        raise EdgeError(text)


def bench_output(path: Path, p50: float, control_p50: float, exits: int = 2) -> Path:
    measured = {"latency_ms": {"p50": p50}}
    result = {
        "whole": measured,
        "early_exit": measured,
        "per_exit": [measured] * exits,
        "control_ms": {"p50": control_p50},
    }
    path.write_text(json.dumps({"precisions": {"fp32": result}}))
    return path


def test_recorded_runs_are_ratios_to_their_control_loops_without_a_verdict(tmp_path: Path) -> None:
    a = bench_output(tmp_path / "a.json", 2.0, control_p50=1.0)
    b = bench_output(tmp_path / "b.json", 9.0, control_p50=3.0)  # a machine of a third of the speed
    result = call(main, "compare", a, b)
    assert result.code == PASSED, result.stderr
    [row] = [line for line in result.stdout.splitlines() if "early exit" in line]
    assert [float(cell) for cell in row.split("│")[2:5]] == [2.0, 3.0, 1.5]
    assert "no verdict" in result.stdout


@pytest.mark.parametrize("content", ["", "[]", '{"precisions": {"fp32": {"whole": {}}}}', '{"precisions": [1]}'])
def test_files_that_are_not_recorded_runs_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"is not a recorded run with a control loop .*; record it again"):
        read_recorded(path)
