"""Parity of a bundle's engines, as pytest: one test a precision, pair that is compared, exit and claim.

Run with `pytest --pyargs edge.parity_checks --bundle DIR [--backend NAME]...`. What is compared with what, the figures
and the tolerances are those of `edge verify`.
"""

from functools import lru_cache
from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.engines import backend_named
from edge.parity import Parity, pairs, verify
from edge.parity_plugin import chosen_backends


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for each precision and pair, and for each exit of the bundle where a test asks for one."""
    path = metafunc.config.getoption("edge_bundle", None)
    if path is None:
        raise pytest.UsageError("the parity checks need a bundle: pytest --pyargs edge.parity_checks --bundle DIR")
    manifest = Bundle.open(Path(path)).manifest
    metafunc.parametrize("precision", list(manifest.precisions))
    metafunc.parametrize("pair", pairs(chosen_backends(metafunc.config)), ids=" against ".join)
    if "exit_index" in metafunc.fixturenames:
        metafunc.parametrize("exit_index", range(len(manifest.exits)))


@pytest.fixture
def parity(precision: str, pair: tuple[str, str], request: pytest.FixtureRequest) -> Parity:
    """Return the comparison of one pair in one precision; each engine runs once."""
    option, backends = request.config.getoption, chosen_backends(request.config)
    return _parities(option("edge_bundle"), precision, backends, option("edge_references"))[pairs(backends).index(pair)]


def test_exit_is_within_tolerance(parity: Parity, exit_index: int) -> None:
    """Logits, top-1, share and accuracy of this exit are those of what it is compared with."""
    failures = [failure for failure in parity.failures if failure.startswith(f"exit {exit_index}:")]
    assert not failures, "\n".join(failures)


def test_samples_leave_at_the_same_exit(parity: Parity) -> None:
    """Both take the same exit."""
    failures = [failure for failure in parity.failures if failure.startswith("exit index agreement")]
    assert not failures, "\n".join(failures)


@lru_cache
def _parities(path: str, precision: str, backends: tuple[str, ...], references: str | None) -> tuple[Parity, ...]:
    file = Path(references) if references else None
    return verify(Bundle.open(Path(path)), precision, [backend_named(name) for name in backends], file)
