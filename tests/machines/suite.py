"""The runtime's tests on another machine: their command, and their counts in the record."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.results import write_result
from edge.bundle.bundle import Bundle
from edge.system import conditions
from tests.machines.runtime_only import EXTRAS_HERE, ROOMS
from tests.support.commands import ROOT

TEST_LIBRARIES = ("hypothesis", "psutil", "pytest", "pytest-instafail", "pytest-timeout", "pytest-xdist")
REQUIREMENTS = ("--requirements", "pyproject.toml", *(word for name in EXTRAS_HERE for word in ("--extra", name)))
"""Arguments of uv for the libraries of a device."""


def pytest_words(junit: str, rooms: Sequence[str], timeout_s: int) -> list[str]:
    """Return the arguments of Python for the runtime's tests; pytest writes its counts to the file `junit`."""
    plugin = ("-p", "tests.machines.runtime_only", "-p", "no:cacheprovider")
    options = ("--quiet", f"--timeout={timeout_s}", f"--junitxml={junit}", "-o", "junit_family=xunit2")
    side_by_side = ("--numprocesses", "logical", "--dist", "loadscope", "--instafail")
    return ["-m", "pytest", *plugin, *options, *side_by_side, *(f"tests/{room}" for room in rooms or ROOMS)]


def counts(junit: Path) -> dict[str, Any]:
    """Return how many tests passed, were skipped and failed, with the names of the last."""
    cases = list(ElementTree.parse(junit).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = [f"{case.get('classname')}.{case.get('name')}" for case in failed]
    return {"passed": len(cases) - skipped - len(failed), "skipped": skipped, "failed": names}


def digits_bundle(folder: Path) -> Path:
    """Train and compile the tests' bundle once."""
    from tests.support.digits import compile_digits, train_digits

    if not (folder / "digits").exists():
        compile_digits(train_digits(folder / "digits-training"), folder / "digits")
    return Bundle.open(folder / "digits").path.resolve()


def uv(*words: str | Path) -> None:
    """Run uv in the checkout."""
    run([sys.executable, "-m", "uv", "--quiet", *words])


def run(words: Sequence[str | Path], **variables: str) -> int:
    """Run a command in the checkout; raise if it fails, except for pytest, whose code 1 means failed tests."""
    env = {**os.environ, "CI": "", **variables}  # there, a skip would fail
    code = subprocess.run(words, cwd=ROOT, env=env).returncode
    if code != 0 and not (code == 1 and "pytest" in words):
        raise subprocess.CalledProcessError(code, list(words))
    return code


def add_machine(path: Path, name: str, result: dict[str, Any]) -> None:
    """Add the result of a machine to the record, in place of an earlier one."""
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    run_by = {"run": " ".join(["python", "-m", "tests.machines", *sys.argv[1:]]), "conditions": conditions()}
    write_result(path, record | {name: result | run_by})
