"""Results of the subcommands of `edge`, as JSON and as tables."""

import json
from pathlib import Path

import pytest

from edge.bundle.bundle import Bundle
from edge.cli.main import SUBCOMMANDS, main
from edge.console import WRONG_INPUT
from edge.doctor.check import Check, State
from edge.doctor.jobs import JOBS, Diagnosis, Job
from tests.support.commands import call, class_folder, error_line


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_a_help_text(name: str) -> None:
    result = call(main, name, "--help")
    assert result.code == 0
    assert result.stdout.startswith(f"usage: edge {name}")
    assert SUBCOMMANDS[name][1:] in " ".join(result.stdout.split())


def test_bench_gives_the_whole_network_early_exits_and_each_exit_of_every_precision(
    digits_bundle: Bundle, launches: int
) -> None:
    result = call(main, "bench", digits_bundle.path, "--backend", "onnxruntime", "--json")
    assert result.code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert set(printed) == {"backend", "threads", "segments", "conditions", "precisions"}
    assert printed["backend"] == "onnxruntime"
    assert printed["segments"] == {name: digits_bundle.segments_digest(name) for name in ("fp32", "int8")}
    assert list(printed["precisions"]) == ["fp32", "int8"]
    for measured in printed["precisions"].values():
        assert list(measured) == ["whole", "early_exit", "per_exit", "beside", "control_ms", "tunings"]
        assert len(measured["per_exit"]) == 3
        for measurement in (measured["whole"], measured["early_exit"], *measured["per_exit"]):
            assert set(measurement) == {"latency_ms", "accuracy", "exit_shares"}
            assert set(measurement["latency_ms"]) == {"mean", "p50", "iqr", "p95", "p99", "spread", "frames"}
            assert measurement["latency_ms"]["frames"] == launches * len(digits_bundle.reference().labels)
            assert 0.5 < measurement["accuracy"] <= 1
            assert sum(measurement["exit_shares"]) == pytest.approx(1)


@pytest.mark.usefixtures("launches")
def test_bench_prints_a_row_for_each_classifier(digits_bundle: Bundle) -> None:
    result = call(main, "bench", digits_bundle.path, "--backend", "onnxruntime", "--precision", "fp32")
    assert result.code == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if "fp32" in line]
    classifiers = ("whole", "early exit", "exit 0 forced", "exit 1 forced", "exit 2 forced", "control loop")
    assert all(name in row for name, row in zip(classifiers, rows, strict=True))
    assert "1.00x" in rows[0]


def test_a_wait_for_a_gpu_is_refused_on_the_cpu_before_engines_are_built(digits_bundle: Bundle) -> None:
    backend = ("--backend", "onnxruntime", "--gpu-sync", "block")
    message = error_line(call(main, "run", digits_bundle.path, "--source", "test://", *backend), WRONG_INPUT)
    assert message == "onnxruntime runs on the CPU, so gpu_sync cannot be 'block'; leave it out"


CODES = {"ok": (0, 0), "warning": (0, 0), "absent": (0, 4), "problem": (1, 4)}


@pytest.mark.parametrize("state", CODES)
def test_doctor_exits_with_1_for_a_problem_and_with_4_for_a_job_that_lacks_something(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    opencv, library = Check("cv2", "ok", "4.12"), Check("onnxruntime", state, "1.2", "" if state == "ok" else "mend it")
    other = Check("tensorrt", "absent", "not installed", "pip install tensorrt")
    jobs = Job("cpu", (opencv, library), (other,)), Job("gpu", (opencv, other), ())
    monkeypatch.setattr("edge.cli.doctor.examine", lambda *names: Diagnosis((), jobs))
    assert (call(main, "doctor").code, call(main, "doctor", "--for", "cpu").code) == CODES[state]
    result = call(main, "doctor", "--json")
    assert result.code == CODES[state][0]
    cpu = json.loads(result.stdout)["jobs"]["cpu"]
    assert cpu["is_ready"] == (CODES[state][1] == 0)
    assert cpu["needs"][1] == {"name": "onnxruntime", "state": state, "value": "1.2", "remedy": library.remedy}


def test_doctor_for_a_job_examines_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.doctor.jobs.check_graph_mode", None)  # a library there may crash
    printed = call(main, "doctor", "--for", "cpu").stdout
    assert "run on the CPU: ready" in printed.splitlines()
    assert "run on the GPU" not in printed


def test_doctor_prints_what_is_in_order_once_and_what_is_not_in_every_job(monkeypatch: pytest.MonkeyPatch) -> None:
    opencv, other = Check("cv2", "ok", "4.12"), Check("numpy", "absent", "not installed", "pip install numpy")
    jobs = Job("cpu", (opencv, other), ()), Job("gpu", (opencv, other), ())
    monkeypatch.setattr("edge.cli.doctor.examine", lambda *names: Diagnosis((), jobs))
    printed = call(main, "doctor").stdout
    assert (printed.count("4.12"), printed.count("pip install numpy")) == (1, 2)
    assert "run on the GPU: 1 thing missing (numpy)" in printed.splitlines()


def test_doctor_checks_this_machine() -> None:
    result = call(main, "doctor", "--json")
    diagnosis = json.loads(result.stdout)
    assert set(diagnosis["jobs"]) == set(JOBS)
    assert {"machine", "Python", "engine cache"} <= {check["name"] for check in diagnosis["machine"]}
    assert diagnosis["jobs"]["cpu"]["is_ready"]


def test_build_gives_every_engine_and_finds_it_in_the_cache_afterwards(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    words = ("build", digits_bundle.path, "--backend", "onnxruntime", "--precision", "int8", "--json")
    first, second = (json.loads(call(main, *words).stdout) for _ in range(2))
    files = [*(segment.file for segment in digits_bundle.precision("int8").segments), "int8/whole.onnx"]
    assert [build["segment"] for build in first] == files
    assert {build["was_cached"] for build in first} == {False}
    assert {build["was_cached"] for build in second} == {True}


def test_record_writes_scores_and_prints_the_command_to_refit(digits_bundle: Bundle, tmp_path: Path) -> None:
    images, scores = class_folder(tmp_path / "images", ("0", "1")), tmp_path / "scores.npz"
    words = ("record", digits_bundle.path, "--images", images, "--output", scores, "--precision", "fp32")
    result = call(main, *words)
    assert (result.code, result.stderr) == (0, "")
    assert f"python -m calibration {digits_bundle.path} --scores {scores} --precision fp32" in result.stdout
    printed = json.loads(call(main, *words, "--json").stdout)
    assert printed == {"scores": str(scores), "precision": "fp32", "samples": 4}


def test_info_gives_the_manifest(digits_bundle: Bundle) -> None:
    printed = json.loads(call(main, "info", digits_bundle.path, "--json").stdout)
    assert printed["labels"] == list(digits_bundle.manifest.labels)
    assert list(printed["precisions"]) == ["fp32", "int8"]
    text = call(main, "info", digits_bundle.path).stdout
    assert "last exit" in text  # in place of a threshold
