"""Options of `pytest benchmarks`: those of the parity checks."""

from edge.parity.pytest_plugin import add_options as pytest_addoption

__all__ = ["pytest_addoption"]
