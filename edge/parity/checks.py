"""Parity of a bundle's engines as pytest: one test for each precision, comparison and exit.

Run with `pytest --pyargs edge.parity.checks --bundle DIR [--backend NAME]...`. Comparisons, figures and tolerances are
those of `edge verify`.
"""

from functools import lru_cache
from pathlib import Path

import pytest

from edge.bundle.bundle import Bundle
from edge.engines import backend_named
from edge.parity.compare import Parity, comparisons, verify
from edge.parity.pytest_plugin import selected_backends


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Generate tests for each precision and comparison, and for each exit where a test has one."""
    path = metafunc.config.getoption("edge_bundle", None)
    if path is None:
        raise pytest.UsageError("the parity checks need a bundle: pytest --pyargs edge.parity.checks --bundle DIR")
    manifest = Bundle.open(Path(path)).manifest
    metafunc.parametrize("precision", list(manifest.precisions))
    metafunc.parametrize("pair", comparisons(selected_backends(metafunc.config)), ids=" against ".join)
    if "exit_index" in metafunc.fixturenames:
        metafunc.parametrize("exit_index", range(len(manifest.exits)))


@pytest.fixture
def parity(precision: str, pair: tuple[str, str], request: pytest.FixtureRequest) -> Parity:
    """Return one comparison in one precision; each engine runs once."""
    option, backends = request.config.getoption, selected_backends(request.config)
    results = _verify_cached(option("edge_bundle"), precision, backends, option("edge_references"))
    return results[comparisons(backends).index(pair)]


def test_exit_is_within_tolerance(parity: Parity, exit_index: int) -> None:
    """Logits, top-1, share and accuracy of this exit equal those of its reference, within tolerance."""
    failures = [str(failure) for failure in parity.failures if failure.exit_index == exit_index]
    assert not failures, "\n".join(failures)


def test_samples_leave_at_the_same_exit(parity: Parity) -> None:
    """Samples take the same exit as in the reference, within tolerance."""
    failures = [str(failure) for failure in parity.failures if failure.exit_index is None]
    assert not failures, "\n".join(failures)


@lru_cache
def _verify_cached(path: str, precision: str, backends: tuple[str, ...], references: str | None) -> tuple[Parity, ...]:
    file = Path(references) if references else None
    return verify(Bundle.open(Path(path)), precision, [backend_named(name) for name in backends], file)
