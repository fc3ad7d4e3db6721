"""Alias of `edge.parity.checks` under its former name: `pytest --pyargs edge.parity_checks`."""

from edge.parity.checks import (  # noqa: F401
    parity,
    pytest_generate_tests,
    test_exit_is_within_tolerance,
    test_samples_leave_at_the_same_exit,
)
