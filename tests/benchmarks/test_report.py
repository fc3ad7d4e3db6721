"""`python -m benchmarks report`: every recorded result on one page that needs no other file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.published import published_for
from benchmarks.recorded_runs import run_of
from benchmarks.report import RESULTS
from edge.console import PASSED
from tests.support.commands import call, error_line

LATENCY = {"mean": 1.25, "p50": 1.2, "iqr": 0.05, "p95": 1.4, "p99": 1.5, "spread": 0.01, "frames": 100}


def estimate(mean: float) -> dict[str, float]:
    return {"mean": mean, "plus_minus": 0.1}


def bench_result(board: str | None, *, problems: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the output of `edge bench --energy --json` for a network with two exits."""
    measured = {"latency_ms": LATENCY, "accuracy": 0.9, "exit_shares": [0.5, 0.5]}
    rails = {"ina/VDD_IN": {"gross_mj": estimate(18.5), "net_mj": estimate(9.25), "problems": list(problems)}}
    workloads = {name: {"rails": rails, "problems": []} for name in ("whole", "early_exit", "exit_0", "exit_1")}
    return {
        "backend": "tensorrt",
        "segments": {},
        "conditions": {"board": board},
        "precisions": {
            "int8": {
                "whole": measured,
                "early_exit": measured,
                "per_exit": [measured, measured],
                "control_ms": LATENCY,
                "energy": {"energy": {"workloads": workloads}},
            }
        },
    }


def report(folder: Path, **results: Any) -> str:
    """Write results into a folder, and return the page made of them."""
    folder.mkdir(exist_ok=True)
    for name, result in results.items():
        (folder / f"{name}.json").write_text(json.dumps(result))
    done = call(main, "report", "--results", folder, "--output", folder / "report.html")
    assert done.code == PASSED, done.stderr
    return (folder / "report.html").read_text()


def test_recorded_results_become_one_page_that_refers_to_no_other_file(tmp_path: Path) -> None:
    done = call(main, "report", "--output", tmp_path / "report.html")
    assert done.code == PASSED, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"<(script|link|iframe)|(src|href)=[\"'](?!#|data:)|url\((?!#)", page)
    assert all(f"<summary>{path.name}</summary>" in page for path in RESULTS.glob("*.json"))
    for text in ("truncated at exit 1, trained alone", "soft-cgt", "resnet18 224x224"):
        assert text in page


def test_energy_stands_beside_latency_with_its_rail(tmp_path: Path) -> None:
    page = report(tmp_path / "results", orin=bench_result("NVIDIA Jetson Orin Nano"))
    assert (
        "<td>int8</td><td>exit 0 forced</td><td>ina/VDD_IN</td><td>18.5 ±0.1</td><td>9.25 ±0.1</td><td>yes</td>" in page
    )
    assert "MLPerf" not in page
    assert "not measured" not in page


def test_invalid_energy_is_shown_with_its_reason(tmp_path: Path) -> None:
    page = report(tmp_path / "results", orin=bench_result(None, problems=("the clocks moved",)))
    assert "<td>the clocks moved</td>" in page


def test_published_energies_stand_beside_those_of_the_same_board(tmp_path: Path) -> None:
    page = report(tmp_path / "results", orin=bench_result("NVIDIA Jetson AGX Orin Developer Kit"))
    assert page.count("MLPerf Inference v3.0") == 2
    assert "Orin NX" not in page
    assert "whole system at the wall" in page


@pytest.mark.parametrize(
    ("board", "energies_mj"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", [22.2, 27.6]),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", [19.4]),
        ("NVIDIA Jetson Orin Nano Developer Kit", []),
        (None, []),
    ],
)
def test_published_energies_are_those_of_the_board(board: str | None, energies_mj: list[float]) -> None:
    assert [figure.energy_mj for figure in published_for(board)] == energies_mj


def test_a_run_without_energy_says_so(tmp_path: Path) -> None:
    result = bench_result(None)
    del result["precisions"]["int8"]["energy"]
    assert "Energy: not measured in this run." in report(tmp_path / "results", cpu=result)


def test_every_exit_and_rival_of_a_demo_is_a_cost() -> None:
    run = run_of("fashion_mnist", json.loads((RESULTS / "fashion_mnist.json").read_text()))
    assert run is not None
    assert run.precisions() == ["fp32", "fp16", "int8"]
    assert [cost.kind for cost in run.costs if cost.precision == "int8"] == [
        *["exit"] * 3, "early exits", "whole", *["truncated"] * 3,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, "", "has no recorded results"),
        ("a.json", "{", "a.json is not a recorded result"),
        ("a.json", "[1]", "a.json is not a recorded result"),
        (
            "a.json",
            '{"segments": {}, "precisions": {"int8": {}}, "backend": "x"}',
            "a.json lacks a part of its results",
        ),
    ],
)
def test_folders_without_results_and_damaged_results_are_refused(
    name: str | None, content: str, message: str, tmp_path: Path
) -> None:
    if name is not None:
        (tmp_path / name).write_text(content)
    refusal = error_line(call(main, "report", "--results", tmp_path, "--output", tmp_path / "report.html"))
    assert message in refusal
    assert not (tmp_path / "report.html").exists()
