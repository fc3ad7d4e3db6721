"""Parity of a bundle's engines with the trained network, as pytest: one test a precision, exit and claim.

Run with `pytest --pyargs edge.parity_checks --bundle DIR [--backend NAME]`. The figures and tolerances are those of
`edge verify`.
"""

from functools import lru_cache
from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.engines import backend_named
from edge.parity import Parity, verify


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for each precision of the bundle, and for each of its exits where a test asks for one."""
    path = metafunc.config.getoption("--bundle")
    if path is None:
        raise pytest.UsageError("the parity checks need a bundle: pytest --pyargs edge.parity_checks --bundle DIR")
    manifest = Bundle.open(Path(path)).manifest
    metafunc.parametrize("precision", list(manifest.precisions))
    if "exit_index" in metafunc.fixturenames:
        metafunc.parametrize("exit_index", range(len(manifest.exits)))


@pytest.fixture
def parity(precision: str, request: pytest.FixtureRequest) -> Parity:
    """Return the comparison of one precision; each is made once."""
    option = request.config.getoption
    return _parity(option("--bundle"), precision, option("--backend"), option("--references"))


def test_exit_is_within_tolerance(parity: Parity, exit_index: int) -> None:
    """Logits, top-1, share and accuracy of this exit are those of the trained network."""
    failures = [failure for failure in parity.failures if failure.startswith(f"exit {exit_index}:")]
    assert not failures, "\n".join(failures)


def test_samples_leave_at_the_same_exit(parity: Parity) -> None:
    """Engines and trained network take the same exit."""
    failures = [failure for failure in parity.failures if failure.startswith("exit index agreement")]
    assert not failures, "\n".join(failures)


@lru_cache
def _parity(path: str, precision: str, backend: str, references: str | None) -> Parity:
    file = Path(references) if references else None
    return verify(Bundle.open(Path(path)), precision, backend_named(backend), file)
