"""A test that is skipped in continuous integration fails, and the report names it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import ROOT

TESTS = """
import pytest

@pytest.mark.{mark}
def test_hardware(): pytest.skip("no hardware")

@pytest.mark.skipif(True, reason="never installed")
def test_condition(): pass

@pytest.fixture
def library(): pytest.importorskip("no_such_library")

def test_fixture(library): pass

@pytest.mark.xfail(reason="known")
def test_known(): raise AssertionError

def test_passes(): pass
"""
MODULE = "import pytest; pytest.importorskip('no_such_library')"


def run_tests(folder: Path, *, ci: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.support.strict_skips",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        ".",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    marks = ("gpu", "tensorrt", "jetson")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n" + "".join(f"    {mark}: hardware\n" for mark in marks))
    for mark in marks:
        (tmp_path / f"test_{mark}.py").write_text(TESTS.replace("{mark}", mark))
    (tmp_path / "test_module.py").write_text(MODULE)
    return tmp_path


def test_in_continuous_integration_only_tests_that_need_hardware_may_be_skipped(folder: Path) -> None:
    done = run_tests(folder, ci="true")
    assert done.returncode != 0
    for mark in ("gpu", "tensorrt", "jetson"):
        reason = f"test_{mark}.py::test_condition was skipped in continuous integration (Skipped: never installed)"
        assert reason in done.stdout
        assert f"test_{mark}.py::test_fixture was skipped" in done.stdout
        assert f"test_{mark}.py::test_hardware was skipped" not in done.stdout
    assert "test_module.py was skipped" in done.stdout


def test_elsewhere_tests_may_be_skipped(folder: Path) -> None:
    done = run_tests(folder, ci="")
    assert (done.returncode, "10 skipped" in done.stdout, "3 xfailed" in done.stdout) == (0, True, True), done.stdout
