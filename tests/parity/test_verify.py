"""`edge verify`: engines of one or several backends compared with the trained network on a real bundle."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.bundle.bundle import Bundle, Reference, write_reference
from edge.bundle.manifest import SegmentSpec
from edge.cli.main import main
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import BundleError, EngineError
from edge.parity.compare import REFERENCE, verify
from edge.progress import Progress
from tests.support.commands import Result, call
from tests.support.second_backend import SecondBackend


def verify_on_both(
    first: SecondBackend, second: SecondBackend, bundle: Bundle, patch: pytest.MonkeyPatch, *words: object
) -> Result:
    """Run `edge verify` in this process with stand-ins for two inference libraries."""
    stand_ins = {backend.name: backend for backend in (first, second)}
    patch.setattr("edge.inference.selection.backend_named", lambda name, **_: stand_ins[name])
    return call(main, "verify", bundle.path, "--backend", first.name, "--backend", second.name, *words)


def test_a_bundle_is_within_its_tolerances_in_every_precision(digits_bundle: Bundle) -> None:
    for precision in digits_bundle.manifest.precisions:
        (parity,) = verify(digits_bundle, precision, [OnnxRuntime()])
        assert parity.passed, list(map(str, parity.failures))
        assert parity.samples == len(digits_bundle.reference().labels)


def test_verify_reports_its_progress_over_the_samples(digits_bundle: Bundle) -> None:
    reports: list[Progress] = []
    verify(digits_bundle, "int8", [OnnxRuntime()], on_progress=reports.append)
    samples = len(digits_bundle.reference().labels)
    running = [report for report in reports if report.task == "verifying int8 on onnxruntime"]
    assert [(report.done, report.total) for report in running] == [(done, samples) for done in range(samples + 1)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda r: r._replace(logits=r.logits[:, :, :7]), r"logits of shape \(3, \d+, 7\)", id="classes"),
        pytest.param(lambda r: r._replace(logits=r.logits[:2]), r"logits of shape \(2, \d+, 10\)", id="exits"),
        pytest.param(lambda r: r._replace(labels=r.labels[1:]), r"labels of shape", id="a label missing"),
        pytest.param(lambda r: Reference(r.frames[:0], r.labels[:0], r.logits[:, :0]), "no samples", id="nothing"),
    ],
)
def test_reference_samples_of_another_network_are_refused(
    damage: Callable[[Reference], Reference], message: str, digits_bundle: Bundle, tmp_path: Path
) -> None:
    file = tmp_path / "references.npz"
    write_reference(file, damage(digits_bundle.reference()))
    with pytest.raises(BundleError, match=rf"references\.npz has .*{message}.*write (it|some) with `python -m compile"):
        verify(digits_bundle, "fp32", [OnnxRuntime()], file)


def test_reference_samples_can_be_read_from_a_file(digits_bundle: Bundle, tmp_path: Path) -> None:
    own = digits_bundle.reference()
    write_reference(tmp_path / "few.npz", Reference(own.frames[:50], own.labels[:50], own.logits[:, :50]))
    (parity,) = verify(digits_bundle, "fp32", [OnnxRuntime()], tmp_path / "few.npz")
    assert parity.samples == 50


def test_the_report_names_the_verdict_the_first_diverging_segment_and_the_files(
    digits_bundle: Bundle, tampered_bundle: Path, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    assert call(main, "verify", digits_bundle.path, "--report", good).code == 0
    result = call(main, "verify", tampered_bundle, "--report", bad)
    assert result.code == 1
    assert "FAILED, first in segment 0:" in result.stdout.replace("\n", " ")
    assert "engines match the trained network" in good.read_text()
    assert "engines DO NOT match the trained network" in bad.read_text()
    assert "BEYOND tolerance, first in segment 0" in bad.read_text()
    assert all(f"`{name}` {digest}" in good.read_text() for name, digest in digits_bundle.manifest.files.items())


def test_edge_verify_exits_with_1_where_engines_differ(tampered_bundle: Path) -> None:
    result = call(main, "verify", tampered_bundle, "--json")
    assert result.code == 1, result.stderr
    printed = json.loads(result.stdout)
    assert printed["passed"] is False
    assert [row["first_diverging"] for row in printed["precisions"]] == [0, 0]
    assert all(isinstance(failure, str) for row in printed["precisions"] for failure in row["failures"])


# Several backends


def test_each_backend_is_verified_against_the_trained_network_and_later_ones_against_the_first(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = verify_on_both(SecondBackend("onnxruntime"), SecondBackend(), digits_bundle, monkeypatch, "--json")
    assert result.code == 0, result.stderr
    rows = json.loads(result.stdout)["precisions"]
    assert [(row["precision"], row["backend"], row["reference"]) for row in rows] == [
        (precision, *pair)
        for precision in ("fp32", "int8")
        for pair in (("onnxruntime", REFERENCE), ("tensorrt", REFERENCE), ("tensorrt", "onnxruntime"))
    ]
    for row in (row for row in rows if row["reference"] == "onnxruntime"):
        assert [exit_["max_abs_logit_error"] for exit_ in row["exits"]] == [0, 0, 0]


def test_a_backend_that_differs_from_the_first_is_named_with_its_exit(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = SecondBackend("onnxruntime"), SecondBackend(wrong_exit=1)
    words = ("--precision", "int8", "--report", tmp_path / "report.md")
    result = verify_on_both(right, wrong, digits_bundle, monkeypatch, *words)
    assert result.code == 1
    verdicts = [line for line in result.stdout.splitlines() if "same exit as" in line]
    expected = [
        ("int8 on onnxruntime: same exit as the trained network on ", "; passed"),
        ("int8 on tensorrt: same exit as the trained network on ", "; FAILED, first in segment 1: exit 1: "),
        ("int8 on tensorrt: same exit as onnxruntime on 100.00% ", "; FAILED, first in segment 1: exit 1: "),
    ]
    for line, (start, verdict) in zip(verdicts, expected, strict=True):
        assert line.startswith(start)
        assert verdict in line
    report = (tmp_path / "report.md").read_text()
    assert "engines DO NOT match the trained network and onnxruntime" in report
    assert "## int8 on tensorrt against onnxruntime\n\nBEYOND tolerance, first in segment 1" in report
    assert "| exit | accuracy | onnxruntime |" in report


def test_a_deviation_that_two_backends_share_fails_only_against_the_trained_network(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = SecondBackend("onnxruntime", wrong_exit=1), SecondBackend(wrong_exit=1)
    report = tmp_path / "report.md"
    result = verify_on_both(first, second, digits_bundle, monkeypatch, "--json", "--report", report)
    assert result.code == 1
    rows = json.loads(result.stdout)["precisions"]
    assert [row["reference"] for row in rows if row["failures"]] == [REFERENCE] * 4
    assert "engines DO NOT match the trained network\n" in report.read_text()


def test_every_backend_runs_once_even_if_named_twice(digits_bundle: Bundle) -> None:
    backends = [SecondBackend(name) for name in ("a", "b", "c")]
    results = verify(digits_bundle, "fp32", [*backends, backends[0], backends[2]])
    pairs = [(parity.backend, parity.reference) for parity in results]
    assert pairs == [("a", REFERENCE), ("b", REFERENCE), ("b", "a"), ("c", REFERENCE), ("c", "a")]
    assert [backend.frames for backend in backends] == [results[0].samples] * 3


def test_nothing_runs_where_a_later_backend_cannot_be_loaded(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = SecondBackend("onnxruntime"), SecondBackend()

    def refuse(engine: Path, spec: SegmentSpec) -> None:
        raise EngineError(f"the engine of {spec.file} is of another GPU")

    monkeypatch.setattr(second, "load", refuse)
    with pytest.raises(EngineError, match="is of another GPU"):
        verify(digits_bundle, "fp32", [first, second])
    assert first.frames == 0


def test_logits_that_are_not_finite_are_null_in_json(digits_bundle: Bundle, tmp_path: Path) -> None:
    own = digits_bundle.reference()
    logits = own.logits.copy()
    logits[1, 0, 0] = np.nan
    write_reference(tmp_path / "references.npz", own._replace(logits=logits))
    words = ("--precision", "fp32", "--references", tmp_path / "references.npz", "--json")
    result = call(main, "verify", digits_bundle.path, *words)
    assert result.code == 1
    [row] = json.loads(result.stdout, parse_constant=pytest.fail)["precisions"]
    assert row["exits"][1]["max_abs_logit_error"] is None
    assert row["first_diverging"] == 1
