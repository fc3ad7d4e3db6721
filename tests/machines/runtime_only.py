"""Pytest plugin for machines with the runtime alone: tests that need another extra of this project are skipped."""

import re
from collections.abc import Generator
from typing import Any

import pytest

from edge.system import EXTRAS, REQUIRED

EXTRAS_HERE = ("runtime", "live", "trust", "energy")
"""Extras of this project that such a machine has."""
ROOMS = (
    "bundle", "calibration", "cli", "doctor", "engines", "frames", "front_door", "inference", "live", "measure",
    "parity", "registry", "test_advice.py", "test_decision.py", "test_machine_state.py", "test_risk.py",
    "test_sequential.py", "test_storage.py",
)  # fmt: skip
"""Tests of what runs on a device."""
MISSING = re.compile(r"No module named '(\w+)[\w.]*'")
OWN = ("benchmarks", "calibration", "compile", "edge", "tests")
"""Packages of this checkout, whose lack is a fault."""


def missing_extra(error: BaseException | None) -> str | None:
    """Return the message about a missing library of another extra, raised here or by a command that a test ran."""
    while error is not None:
        if isinstance(error, (ModuleNotFoundError, AssertionError)) and (missing := MISSING.search(str(error))):
            is_here = missing[1] in (*REQUIRED, *OWN) or EXTRAS.get(missing[1], "compile") in EXTRAS_HERE
            return None if is_here else missing[0]
        error = error.__cause__ or error.__context__
    return None


def skip_instead(report: Any, call: pytest.CallInfo[Any] | None) -> None:
    """Turn a failure into a skip where a library of another extra is missing."""
    if call is not None and call.excinfo is not None and (reason := missing_extra(call.excinfo.value)):
        report.outcome, report.longrepr = "skipped", ("", 0, reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    skip_instead(report, call)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    skip_instead(report, getattr(report, "call", None))
    return report
