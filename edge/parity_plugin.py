"""Options for `pytest --pyargs edge.parity_checks`; pytest finds this through the package's entry point."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the parity checks need to be told."""
    group = parser.getgroup("edge parity checks")
    group.addoption("--bundle", metavar="DIR", help="bundle to check: pytest --pyargs edge.parity_checks --bundle DIR")
    group.addoption("--references", metavar="FILE", help="samples of `python -m compile --references`")
    group.addoption("--backend", default="onnxruntime", help="inference library to check it on (default: %(default)s)")
