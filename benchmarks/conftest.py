"""What `pytest benchmarks` needs to be told: the same as the parity checks."""

from edge.parity.pytest_plugin import add_options as pytest_addoption

__all__ = ["pytest_addoption"]
