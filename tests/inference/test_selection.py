"""Backend, precision and threads of a bundle: as given, else the fastest that `edge build` measured here."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from calibration.__main__ import main as calibration
from edge.bundle.bundle import Bundle
from edge.cli.main import main
from edge.console import PASSED
from edge.engines import CPU_BACKENDS
from edge.engines.openvino import OpenVino
from edge.errors import EngineError
from edge.inference import selection
from edge.inference.load import load
from edge.inference.selection import Threads, Timing, read_timings, select, write_timings
from tests.support.commands import call

TIMINGS = (
    Timing("onnxruntime", "fp32", 1, 0.4),
    Timing("onnxruntime", "int8", 1, 0.1),
    Timing("openvino", "fp32", 1, 0.3),
    Timing("openvino", "int8", 1, 0.2),
    Timing("onnxruntime", "fp32", 0, 0.15),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "engines"))
    return tmp_path / "engines"


@pytest.mark.parametrize(
    ("backend", "precision", "threads", "selected"),
    [
        ("auto", "auto", 1, "int8 on openvino"),  # ONNX Runtime's int8 is not its default precision
        ("auto", "auto", "auto", "fp32 on onnxruntime with all cores"),
        ("auto", "fp32", 1, "fp32 on openvino"),
        ("auto", "int8", 1, "int8 on onnxruntime"),
        ("openvino", "auto", "auto", "int8 on openvino"),
        ("onnxruntime", "auto", 1, "fp32 on onnxruntime"),
        ("auto", "auto", 2, "fp32 on onnxruntime with 2 threads"),  # not measured
        ("auto", "auto", 0, "fp32 on onnxruntime with all cores"),
    ],
)
def test_the_fastest_measured_way_is_selected_among_those_not_excluded(
    backend: str, precision: str, threads: Threads, selected: str, digits_bundle: Bundle
) -> None:
    write_timings(digits_bundle, TIMINGS)
    way = select(digits_bundle, backend, precision, threads)
    assert (str(way), way.backend.threads) == (selected, way.threads)  # type: ignore[attr-defined]


def test_without_timings_the_defaults_are_selected(digits_bundle: Bundle) -> None:
    assert str(select(digits_bundle, threads="auto")) == "fp32 on onnxruntime"


def test_new_timings_replace_all_earlier_ones(digits_bundle: Bundle) -> None:
    write_timings(digits_bundle, TIMINGS)
    write_timings(digits_bundle, TIMINGS[:2])
    assert read_timings(digits_bundle) == [*TIMINGS[:2]]


def test_a_way_that_was_not_measured_beside_the_default_is_not_selected(digits_bundle: Bundle) -> None:
    write_timings(digits_bundle, TIMINGS[1:])
    assert str(select(digits_bundle)) == "fp32 on onnxruntime"


@pytest.mark.parametrize(("mean_ms", "backend"), [(0.379, "openvino"), (0.381, "onnxruntime")])
def test_another_way_is_selected_from_a_gain_of_five_percent(
    mean_ms: float, backend: str, digits_bundle: Bundle
) -> None:
    write_timings(digits_bundle, [TIMINGS[0], Timing("openvino", "int8", 1, mean_ms)])
    assert select(digits_bundle).backend.name == backend


def test_thresholds_that_are_fitted_again_keep_the_timings(digits_bundle: Bundle, tmp_path: Path) -> None:
    write_timings(digits_bundle, TIMINGS)
    folder = Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))
    done = call(calibration, folder, "--limit", 0.3)
    assert done.code == PASSED, done.stderr
    fitted = Bundle.open(folder)
    assert fitted.manifest.precisions != digits_bundle.manifest.precisions
    assert read_timings(fitted) == [*TIMINGS]


def test_edge_info_names_the_way_of_edge_run_and_loads_no_library(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_timings(digits_bundle, TIMINGS)
    for name in CPU_BACKENDS:
        monkeypatch.setitem(sys.modules, f"edge.engines.{name}", None)
    done = call(main, "info", digits_bundle.path)
    assert "\nauto: int8 on openvino\nauto with --threads auto: fp32 on onnxruntime with all cores\n" in done.stdout


def test_timings_of_another_version_are_not_used(digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    write_timings(digits_bundle, TIMINGS)
    monkeypatch.setattr(selection, "_version", lambda name: "0.0")
    assert read_timings(digits_bundle) == []


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", '[["tflite", "fp32", 1, 0.1]]', '[["openvino", "fp8", 1, 0.1]]', '[["openvino", "int8"]]',
     '[["openvino", "int8", "1", 0.1]]', '[["openvino", "int8", -1, 0.1]]', '[["openvino", "int8", 1, null]]',
     '[["openvino", "int8", 1, 0.0]]'],
)  # fmt: skip
def test_damaged_timings_are_not_used(content: str, digits_bundle: Bundle, cache: Path) -> None:
    write_timings(digits_bundle, TIMINGS)
    [file] = cache.iterdir()
    file.write_text(content)
    assert str(select(digits_bundle)) == "fp32 on onnxruntime"


def test_edge_build_measures_all_backends_and_later_commands_use_the_fastest(digits_bundle: Bundle) -> None:
    done = call(main, "build", digits_bundle.path)
    assert done.code == PASSED, done.stderr
    timings = read_timings(digits_bundle)
    assert {timing[:3] for timing in timings} == {(b, p, 1) for b in CPU_BACKENDS for p in ("fp32", "int8")}
    selected = str(select(digits_bundle))
    assert f"auto: {selected}" in done.stdout
    info = json.loads(call(main, "info", digits_bundle.path, "--json").stdout)
    assert info["timings"] == [timing._asdict() for timing in timings]
    image = Path(__file__).parents[2] / "docs" / "seven.png"
    assert f"{selected}: 1 frames" in call(main, "run", digits_bundle.path, "--source", image).stdout
    with load(digits_bundle.path) as classifier, load(digits_bundle.path, backend=selected.split()[-1]) as same:
        assert classifier.predict(image) == same.predict(image)


def test_edge_build_goes_on_without_a_backend_that_refuses_the_bundle(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise EngineError("refused")

    monkeypatch.setattr(OpenVino, "build", refuse)
    done = call(main, "build", digits_bundle.path, "--precision", "fp32")
    assert done.code == PASSED
    assert "warning: auto leaves out openvino: refused" in done.stderr
    assert read_timings(digits_bundle) == []
    assert call(main, "build", digits_bundle.path, "--precision", "fp32", "--backend", "openvino").code != PASSED


def test_edge_build_measures_without_a_backend_that_does_not_load(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise EngineError("refused")

    monkeypatch.setattr(OpenVino, "load", refuse)
    done = call(main, "build", digits_bundle.path, "--precision", "fp32")
    assert done.code == PASSED
    assert "auto leaves out fp32 on openvino: refused" in done.stderr
    assert [timing.way for timing in read_timings(digits_bundle)] == [("onnxruntime", "fp32", 1)]


@pytest.mark.parametrize(
    ("address", "used"), [((), "int8 on openvino"), (("--address", "127.0.0.1:1"), "fp32 on onnxruntime")]
)
def test_edge_score_uses_timings_on_the_machine_where_they_were_measured(
    address: tuple[str, ...], used: str, digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(_: Bundle, precision: str, backend: str, *args: object, **options: object) -> None:
        raise EngineError(f"{precision} on {backend}")

    monkeypatch.setattr("edge.distributed.score.score", score)
    write_timings(digits_bundle, TIMINGS[:-1])
    words = ("score", digits_bundle.path, tmp_path / "images", "--output", tmp_path / "scores", *address)
    assert used in call(main, *words).stderr
