"""Options of `pytest --pyargs edge.parity.checks`, loaded by pytest through the package's entry point."""

from pathlib import Path

import pytest

from edge.engines import BACKENDS
from edge.errors import EdgeError

CHECKS = {
    "edge.parity.checks": Path(__file__).with_name("checks.py"),
    "edge.parity_checks": Path(__file__).parents[1] / "parity_checks.py",
}


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> None:
    """Add the options only where the parity checks are run: other plugins may use the same names."""
    if any(_is_checks(word.partition("::")[0]) for word in args):
        add_options(parser)


def _is_checks(target: str) -> bool:
    """Check whether a word of the command line is the module of the checks or its file."""
    return target in CHECKS or (target.endswith(".py") and Path(target).absolute() in CHECKS.values())


def add_options(parser: pytest.Parser) -> None:
    """Add the options of the parity checks and the benchmarks."""
    group = parser.getgroup("edge parity checks")
    group.addoption("--bundle", dest="edge_bundle", metavar="DIR", help="bundle to check")
    group.addoption(
        "--references", dest="edge_references", metavar="FILE", help="samples of `python -m compile --references`"
    )
    group.addoption(
        "--backend",
        dest="edge_backends",
        action="extend",
        nargs="+",
        choices=BACKENDS,
        help="inference libraries to check it on, one or more: later ones are also compared with the first "
        "(default: onnxruntime)",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check bundle and backends before collection, where an error would be a traceback."""
    path = config.getoption("edge_bundle", None)
    if path is None:
        return
    from edge.bundle.bundle import Bundle
    from edge.engines import backend_named

    try:
        Bundle.open(Path(path))
        for name in selected_backends(config):
            backend_named(name)
    except EdgeError as error:
        raise pytest.UsageError(str(error)) from error


def selected_backends(config: pytest.Config) -> tuple[str, ...]:
    """Return the backends of the command line, each once."""
    return tuple(dict.fromkeys(config.getoption("edge_backends") or ["onnxruntime"]))
