"""Functions called in a process of their own: results, errors and deaths reach the caller."""

import os

import psutil
import pytest

from edge.decision import NEVER
from edge.engines import backend_named
from edge.errors import EdgeError, EngineError
from edge.measure.bench import thresholds_for_exit
from edge.measure.launches import launch


def test_a_launch_returns_the_result_or_raises_the_error_of_the_function() -> None:
    assert launch(thresholds_for_exit, 1, exits=3) == [NEVER, 0.0]
    with pytest.raises(EngineError, match="no-such"):
        launch(backend_named, "no-such")


def test_each_launch_has_a_process_of_its_own_that_ends_with_it() -> None:
    process_ids = {launch(os.getpid) for _ in range(2)}
    assert len(process_ids | {os.getpid()}) == 3
    assert not any(psutil.pid_exists(process_id) for process_id in process_ids)


def test_a_launch_whose_process_dies_is_an_error() -> None:
    with pytest.raises(EdgeError, match="the process that measured ended with exit code 7"):
        launch(os._exit, 7)
