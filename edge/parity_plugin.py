"""Options for `pytest --pyargs edge.parity_checks`; pytest finds this through the package's entry point."""

from pathlib import Path

import pytest

from edge.engines import BACKENDS
from edge.errors import EdgeError


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the parity checks need to be told."""
    group = parser.getgroup("edge parity checks")
    group.addoption("--bundle", metavar="DIR", help="bundle to check: pytest --pyargs edge.parity_checks --bundle DIR")
    group.addoption("--references", metavar="FILE", help="samples of `python -m compile --references`")
    group.addoption(
        "--backend",
        action="append",
        choices=BACKENDS,
        help="inference library to check it on; repeatable: later ones are also compared with the first "
        "(default: onnxruntime)",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuse a bundle or backend that cannot be had: what is raised while tests are collected is a traceback."""
    if config.getoption("--bundle") is None:
        return
    from edge.bundle import Bundle
    from edge.engines import backend_named

    try:
        Bundle.open(Path(config.getoption("--bundle")))
        for name in chosen_backends(config):
            backend_named(name)
    except EdgeError as error:
        raise pytest.UsageError(str(error)) from error


def chosen_backends(config: pytest.Config) -> tuple[str, ...]:
    """Return the names of the backends that the command line asks for, each once."""
    return tuple(dict.fromkeys(config.getoption("--backend") or ["onnxruntime"]))
