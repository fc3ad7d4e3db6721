"""In continuous integration, a skipped test fails unless its marks say that it needs hardware."""

import os
from collections.abc import Generator

import pytest

HARDWARE = ("gpu", "tensorrt", "jetson")
"""Marks of tests that may be skipped where the hardware is missing."""

Report = pytest.TestReport | pytest.CollectReport


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not any(item.get_closest_marker(name) for name in HARDWARE):
        fail_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_skip(report)
    return report


def fail_skip(report: Report) -> None:
    """Turn a skip into a failure if the variable `CI` is set; expected failures stay."""
    if not os.environ.get("CI") or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = (
        f"{report.nodeid} was skipped in continuous integration ({reason}); install what it needs, "
        f"or mark it with {', '.join(HARDWARE)} if it needs hardware"
    )
