"""Parity finds what it is there to find, and says so with an exit code."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from compile.precisions import PRECISIONS
from edge.bundle.bundle import MANIFEST, Bundle, Reference, file_hashes, write_reference
from edge.bundle.manifest import SegmentSpec, manifest_to_json
from edge.cli.main import main
from edge.decision import Scores
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import BundleError, EngineError
from edge.inference.record import Recording
from edge.parity.compare import TOLERANCES, TRAINED, Parity, Side, compare, verify
from tests.support.commands import ROOT, Result, call, run_command
from tests.support.second_backend import SecondBackend


def two_exits(samples: int = 1000, seed: int = 0) -> Reference:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, samples)
    logits = generator.normal(size=(2, samples, 4)).astype(np.float32)
    logits[:, np.arange(samples), labels] += 2
    return Reference(np.zeros((samples, 1, 1, 1), np.float32), labels, logits)


def compared(logits: np.ndarray, reference: Reference) -> Parity:
    """Compare logits with a reference, decided with the same threshold."""
    trained = Side.from_logits(TRAINED, reference.logits)
    return compare("fp32", Side.from_logits("any", logits), trained, reference.labels, [0.6])


def verified_on_both(
    first: SecondBackend, second: SecondBackend, bundle: Bundle, patch: pytest.MonkeyPatch, *words: object
) -> Result:
    """Run `edge verify` in this process with stand-ins for two inference libraries."""
    stand_ins = {backend.name: backend for backend in (first, second)}
    patch.setattr("edge.__main__.backend_named", lambda name, **_: stand_ins[name])
    return call(main, "verify", bundle.path, "--backend", first.name, "--backend", second.name, *words)


@pytest.fixture
def tampered_bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle whose reference says the trained network computed something else; all hashes are right."""
    path = tmp_path / "bundle"
    shutil.copytree(digits_bundle.path, path)
    reference = digits_bundle.reference()
    write_reference(path / digits_bundle.manifest.reference, reference._replace(logits=-reference.logits))
    manifest = dataclasses.replace(digits_bundle.manifest, files=file_hashes(path))
    (path / MANIFEST).write_text(manifest_to_json(manifest))
    return path


def edge(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=300, check=False)


def test_equal_outputs_pass_with_every_figure_at_its_best() -> None:
    reference = two_exits()
    parity = compared(reference.logits, reference)
    assert parity.passed
    for found in parity.exits:
        assert (found.top1_agreement, found.exit_index_agreement, found.max_abs_logit_error) == (1, 1, 0)
    assert sum(found.exit_share for found in parity.exits) == pytest.approx(1)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda logits: logits + 0.01, "largest logit error is 0.01"),
        (lambda logits: np.roll(logits, 1, axis=-1), "top-1 agreement is 0"),
        (lambda logits: logits * 0.1, "exit 0: exit share drift"),
        (
            lambda logits: np.where(np.arange(logits.shape[1])[:, None] % 50 == 0, np.nan, logits),
            "largest logit error is inf",
        ),
    ],
)
def test_each_kind_of_damage_is_named(damage, words: str) -> None:
    reference = two_exits()
    parity = compared(damage(reference.logits).astype(np.float32), reference)
    assert not parity.passed
    assert any(words in failure for failure in parity.failures), parity.failures


def test_a_damaged_last_exit_is_not_blamed_on_the_first() -> None:
    reference = two_exits()
    logits = reference.logits.copy()
    logits[1] += 1
    parity = compared(logits, reference)
    assert parity.failures
    assert all(failure.startswith("exit 1:") for failure in parity.failures)
    assert parity.first_diverging == 1


def test_what_is_no_number_on_both_sides_is_no_difference_and_on_one_side_the_largest() -> None:
    reference = two_exits()
    logits = reference.logits.copy()
    reference.logits[0, :5] = (np.nan, np.inf, -np.inf, 0)
    parity = compared(reference.logits.copy(), reference)
    assert parity.passed, parity.failures
    assert parity.exits[0].max_abs_logit_error == parity.exits[0].mean_abs_logit_error == 0
    reference.logits[0, :5] = logits[0, :5]
    reference.logits[1, 7, 2] = np.nan
    assert [found.max_abs_logit_error for found in compared(logits, reference).exits] == [0, np.inf]


def test_where_only_all_exits_together_differ_too_much_the_worst_of_them_is_blamed() -> None:
    reference = two_exits()
    parity = compared(reference.logits, reference)
    assert parity.first_diverging is None
    better, worse = (dataclasses.replace(parity.exits[0], exit_index_agreement=share) for share in (0.99, 0.98))
    for exits, blamed in (((better, worse), 1), ((worse, better), 0)):
        together = dataclasses.replace(parity, exits=exits, failures=("exit index agreement is 0.97",))
        assert together.first_diverging == blamed


@pytest.mark.parametrize(("off", "found"), [((0.25, 0.0), [0.125, 0]), ((0.0, 0.5), [0, 0.25])])
def test_the_mean_logit_error_is_each_exits_own(off: tuple[float, float], found: list[float]) -> None:
    reference = two_exits()
    logits = reference.logits.copy()
    logits[:, ::2] += np.array(off, np.float32)[:, None, None]
    parity = compared(logits, reference)
    assert [one.mean_abs_logit_error for one in parity.exits] == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("exit_index", [0, 1])
def test_only_answers_that_became_wrong_are_a_loss_of_accuracy(exit_index: int) -> None:
    reference = two_exits()
    right = reference.logits[exit_index].argmax(axis=-1) == reference.labels
    worse, better = (reference.logits.copy() for _ in range(2))
    for logits, samples in ((worse, np.flatnonzero(right)[:10]), (better, np.flatnonzero(~right)[:10])):
        wanted = reference.labels[samples] if logits is better else reference.labels[samples] - 1
        said = logits[exit_index, samples]
        best = said.argmax(axis=-1)
        logits[exit_index, samples, best] = said[np.arange(10), wanted]
        logits[exit_index, samples, wanted] = said.max(axis=-1)
    found, loss = compared(worse, reference), f"exit {exit_index}: accuracy loss is 0.01, must be <= 0.001"
    assert [failure for failure in found.failures if "accuracy" in failure] == [loss]
    assert found.exits[exit_index].reference_accuracy == pytest.approx(right.mean())
    assert found.exits[exit_index].accuracy == pytest.approx(right.mean() - 0.01)
    assert not [failure for failure in compared(better, reference).failures if "accuracy" in failure]


def as_sure_as(confidence: np.ndarray) -> Side:
    """Return a side whose first of two exits is so sure of each sample, and whose answers are all the same."""
    both = np.stack([confidence, np.ones_like(confidence)]).astype(np.float32)
    logits = np.zeros((*both.shape, 2), np.float32)
    return Side("any", Recording(logits, Scores(both, np.zeros(both.shape, np.int32))))


@pytest.mark.parametrize(("flipped", "share"), [(slice(0, 30), 0.47), (slice(970, 1000), 0.53)])
def test_samples_that_cross_the_threshold_in_either_direction_count_as_other_decisions(
    flipped: slice, share: float
) -> None:
    confidence = np.repeat(np.float32([0.9, 0.3]), 500)
    other = confidence.copy()
    other[flipped] = np.float32(1.2) - other[flipped]
    parity = compare("fp32", as_sure_as(other), as_sure_as(confidence), np.zeros(1000, np.int64), [0.6])
    assert parity.exit_index_agreement == pytest.approx(0.97)
    assert [found.exit_index_agreement for found in parity.exits] == pytest.approx([0.97, 1])
    assert [found.exit_share for found in parity.exits] == pytest.approx([share, 1 - share])
    assert {
        "exit index agreement is 0.97, must be >= 0.999",
        "exit 0: decision agreement is 0.97, must be >= 0.999",
        "exit 0: exit share drift is 0.03, must be <= 0.002",
    } <= set(parity.failures)


def test_a_confidence_at_the_threshold_on_both_sides_is_the_same_decision() -> None:
    side = as_sure_as(np.float32([0.9, 0.6, 0.3]))
    parity = compare("fp32", side, side, np.zeros(3, np.int64), [0.6])
    assert parity.passed
    assert parity.exits[0].exit_share == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        pytest.param(lambda r: r._replace(logits=r.logits[:, :, :7]), r"logits of shape \(3, \d+, 7\)", id="classes"),
        pytest.param(lambda r: r._replace(logits=r.logits[:2]), r"logits of shape \(2, \d+, 10\)", id="exits"),
        pytest.param(lambda r: r._replace(labels=r.labels[1:]), r"labels of shape", id="a label missing"),
        pytest.param(lambda r: Reference(r.frames[:0], r.labels[:0], r.logits[:, :0]), "no samples", id="nothing"),
    ],
)
def test_references_of_another_network_are_refused(
    damage: Callable[[Reference], Reference], found: str, digits_bundle: Bundle, tmp_path: Path
) -> None:
    file = tmp_path / "references.npz"
    write_reference(file, damage(digits_bundle.reference()))
    with pytest.raises(BundleError, match=rf"references\.npz has .*{found}.*write it with `python -m compile"):
        verify(digits_bundle, "fp32", [OnnxRuntime()], file)


def test_more_references_than_the_bundles_own_are_taken_from_a_file(digits_bundle: Bundle, tmp_path: Path) -> None:
    own = digits_bundle.reference()
    write_reference(tmp_path / "few.npz", Reference(own.frames[:50], own.labels[:50], own.logits[:, :50]))
    (parity,) = verify(digits_bundle, "fp32", [OnnxRuntime()], tmp_path / "few.npz")
    assert parity.samples == 50


def test_the_report_says_what_is_beyond_tolerance_where_and_of_which_files(
    digits_bundle: Bundle, tampered_bundle: Path, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    assert edge("edge", "verify", str(digits_bundle.path), "--report", str(good)).returncode == 0
    done = edge("edge", "verify", str(tampered_bundle), "--report", str(bad))
    assert done.returncode == 1
    assert "FAILED, first in segment 0:" in done.stdout.replace("\n", " ")
    assert "engines match the trained network" in good.read_text()
    assert "engines DO NOT match the trained network" in bad.read_text()
    assert "BEYOND tolerance, first in segment 0" in bad.read_text()
    assert all(f"`{name}` {digest}" in good.read_text() for name, digest in digits_bundle.manifest.files.items())


def test_a_bundle_is_within_its_tolerances_in_every_precision(digits_bundle: Bundle) -> None:
    for precision in digits_bundle.manifest.precisions:
        (parity,) = verify(digits_bundle, precision, [OnnxRuntime()])
        assert parity.passed, parity.failures
        assert parity.samples == len(digits_bundle.reference().labels)
    assert set(TOLERANCES) == set(PRECISIONS)


def test_edge_verify_ends_with_1_where_engines_differ(tampered_bundle: Path) -> None:
    done = edge("edge", "verify", str(tampered_bundle), "--json")
    assert done.returncode == 1, done.stderr
    printed = json.loads(done.stdout)
    assert printed["passed"] is False
    assert [row["first_diverging"] for row in printed["precisions"]] == [0, 0]


def test_the_shipped_pytest_checks_pass_and_fail_with_the_bundle(digits_bundle: Bundle, tampered_bundle: Path) -> None:
    checks = ("pytest", "--pyargs", "edge.parity_checks", "-q", "-p", "no:cacheprovider", "--bundle")
    good, bad = edge(*checks, str(digits_bundle.path)), edge(*checks, str(tampered_bundle))
    exits = len(digits_bundle.manifest.exits)
    assert good.returncode == 0, good.stdout
    assert f"{2 * (exits + 1)} passed" in good.stdout
    assert bad.returncode == 1, bad.stdout
    assert "top-1 agreement" in bad.stdout


def test_the_shipped_pytest_checks_ask_for_a_bundle() -> None:
    done = edge("pytest", "--pyargs", "edge.parity_checks", "-p", "no:cacheprovider")
    assert done.returncode == 2
    assert "--bundle DIR" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("bundle", "backend", "said"),
    [
        (None, "openvino", "argument --backend: invalid choice: 'openvino'"),
        (None, "tensorrt", "backend tensorrt needs a library that is not installed"),
        ("none", "onnxruntime", "there is no bundle at none; make one with"),
    ],
)
def test_the_shipped_pytest_checks_refuse_a_wrong_command_line_before_they_start(
    bundle: str | None, backend: str, said: str, digits_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError")
    words = ("--bundle", bundle or digits_bundle.path, "--backend", backend)
    checks = ("pytest", "--pyargs", "edge.parity_checks", "-p", "no:cacheprovider", *words)
    done = run_command(*checks, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert said in done.stderr
    assert "Error" not in done.stderr
    assert done.stdout == ""


# Several backends


def test_each_backend_is_held_to_the_trained_network_and_later_ones_to_the_first(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = verified_on_both(SecondBackend("onnxruntime"), SecondBackend(), digits_bundle, monkeypatch, "--json")
    assert done.code == 0, done.stderr
    rows = json.loads(done.stdout)["precisions"]
    assert [(row["precision"], row["backend"], row["against"]) for row in rows] == [
        (precision, *pair)
        for precision in ("fp32", "int8")
        for pair in (("onnxruntime", TRAINED), ("tensorrt", TRAINED), ("tensorrt", "onnxruntime"))
    ]
    for row in (row for row in rows if row["against"] == "onnxruntime"):
        assert [found["max_abs_logit_error"] for found in row["exits"]] == [0, 0, 0]


def test_a_backend_unlike_the_first_is_named_with_its_exit(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = SecondBackend("onnxruntime"), SecondBackend(wrong_exit=1)
    words = ("--precision", "int8", "--report", tmp_path / "report.md")
    done = verified_on_both(right, wrong, digits_bundle, monkeypatch, *words)
    assert done.code == 1
    verdicts = [line for line in done.stdout.splitlines() if "same exit as" in line]
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


def test_a_fault_that_backends_share_is_none_between_them(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = SecondBackend("onnxruntime", wrong_exit=1), SecondBackend(wrong_exit=1)
    report = tmp_path / "report.md"
    done = verified_on_both(first, second, digits_bundle, monkeypatch, "--json", "--report", report)
    assert done.code == 1
    rows = json.loads(done.stdout)["precisions"]
    assert [row["against"] for row in rows if row["failures"]] == [TRAINED] * 4
    assert "engines DO NOT match the trained network\n" in report.read_text()


def test_every_backend_runs_once_even_if_named_twice(digits_bundle: Bundle) -> None:
    backends = [SecondBackend(name) for name in ("a", "b", "c")]
    found = verify(digits_bundle, "fp32", [*backends, backends[0], backends[2]])
    pairs = [(parity.backend, parity.against) for parity in found]
    assert pairs == [("a", TRAINED), ("b", TRAINED), ("b", "a"), ("c", TRAINED), ("c", "a")]
    assert [backend.frames for backend in backends] == [found[0].samples] * 3


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


def test_the_shipped_pytest_checks_name_the_backends_that_differ(digits_bundle: Bundle) -> None:
    checks = ("pytest", "--pyargs", "edge.parity_checks", "-q", "-p", "no:cacheprovider", "-p", "second_backend")
    backends = ("--bundle", digits_bundle.path, "--backend", "onnxruntime", "--backend", "tensorrt")
    done = run_command(*checks, *backends, env={"PYTHONPATH": str(ROOT / "tests")})
    assert done.returncode == 1, done.stdout + done.stderr
    for precision, against in product(("fp32", "int8"), (TRAINED, "onnxruntime")):
        assert f"test_exit_is_within_tolerance[{precision}-tensorrt against {against}-1]" in done.stdout
    assert f"4 failed, {2 * 3 * (len(digits_bundle.manifest.exits) + 1) - 4} passed" in done.stdout
