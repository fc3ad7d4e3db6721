"""The shipped parity checks: `pytest --pyargs edge.parity.checks`, and their former name `edge.parity_checks`."""

import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from edge.bundle.bundle import Bundle
from edge.parity.compare import REFERENCE
from tests.support.commands import ROOT, run_command

CHECKS, ALIAS = "edge.parity.checks", "edge.parity_checks"
each_name = pytest.mark.parametrize("checks", [CHECKS, ALIAS])


def run_checks(checks: str, *words: object, python_path: Path = ROOT) -> Any:
    env = {"PYTHONPATH": f"{python_path}:{ROOT}"}
    return run_command("pytest", "--pyargs", checks, "-p", "no:cacheprovider", *words, env=env, timeout=300)


@each_name
def test_the_checks_pass_and_fail_with_the_bundle(checks: str, digits_bundle: Bundle, tampered_bundle: Path) -> None:
    good = run_checks(checks, "-q", "--bundle", digits_bundle.path)
    bad = run_checks(checks, "-q", "--bundle", tampered_bundle)
    exits = len(digits_bundle.manifest.exits)
    assert good.returncode == 0, good.stdout
    assert f"{2 * (exits + 1)} passed" in good.stdout
    assert bad.returncode == 1, bad.stdout
    assert "top-1 agreement" in bad.stdout


@each_name
def test_the_checks_need_a_bundle(checks: str) -> None:
    done = run_checks(checks)
    assert done.returncode == 2
    assert "--bundle DIR" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("bundle", "backend", "message"),
    [
        (None, "tflite", "argument --backend: invalid choice: 'tflite'"),
        (None, "tensorrt", "backend tensorrt needs a library that cannot be loaded (no libnvinfer)"),
        ("none", "onnxruntime", "there is no bundle at none; make one with"),
    ],
)
def test_the_checks_refuse_a_wrong_command_line_before_they_start(
    bundle: str | None, backend: str, message: str, digits_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('no libnvinfer', name='tensorrt')")
    words = ("--bundle", bundle or digits_bundle.path, "--backend", backend)
    done = run_checks(CHECKS, *words, python_path=tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr
    assert "Error" not in done.stderr
    assert done.stdout == ""


def test_the_checks_name_the_backends_that_differ(digits_bundle: Bundle) -> None:
    """The plugin `second_backend` replaces tensorrt by a backend whose exit 1 is wrong."""
    words = ("--bundle", digits_bundle.path, "--backend", "onnxruntime", "--backend", "tensorrt")
    done = run_checks(CHECKS, "-q", "-p", "tests.support.second_backend", *words)
    assert done.returncode == 1, done.stdout + done.stderr
    for precision, reference in product(("fp32", "int8"), (REFERENCE, "onnxruntime")):
        assert f"test_exit_is_within_tolerance[{precision}-tensorrt against {reference}-1]" in done.stdout
    assert f"4 failed, {2 * 3 * (len(digits_bundle.manifest.exits) + 1) - 4} passed" in done.stdout


def test_the_options_of_the_checks_are_added_only_for_the_checks() -> None:
    done = run_command("pytest", "--help", "-p", "no:cacheprovider")
    assert done.returncode == 0
    assert "--references" not in done.stdout


CLASHING = """
def pytest_addoption(parser):
    parser.addoption("--backend", choices=["metal"])
"""


@pytest.mark.parametrize("name", ["test_parity_checks.py", "parity/checks/test_x.py", "edge.parity.checks/test_x.py"])
def test_a_project_with_an_option_of_the_same_name_is_left_alone(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("def test_it(request):\n    assert request.config.getoption('backend') == 'metal'\n")
    (tmp_path / "conftest.py").write_text(CLASHING)
    words = ("--rootdir", tmp_path, "-p", "no:cacheprovider", "-q", "--backend", "metal", file)
    done = run_command("pytest", "-c", os.devnull, *words)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "words", [("--pyargs", f"{CHECKS}::test_samples_leave_at_the_same_exit"), (ROOT / "edge/parity/checks.py",)]
)
def test_a_part_or_the_file_of_the_checks_has_the_options(words: tuple[object, ...], digits_bundle: Bundle) -> None:
    options = (
        "--bundle",
        digits_bundle.path,
        "--backend",
        "onnxruntime",
        "onnxruntime",
        "-q",
        "-p",
        "no:cacheprovider",
    )
    done = run_command("pytest", *words, *options)
    assert done.returncode == 0, done.stdout + done.stderr
