"""JSON on stdout is valid for any reader, whatever the numbers are; without a terminal, progress is lines on stderr."""

import dataclasses
import json
import math
import queue

import numpy as np
import pytest

import edge.console
from edge.console import ProgressDisplay, print_json, status
from edge.measure.bench import Measurement
from edge.measure.latency import latency_from_ms
from edge.progress import Progress


def print_and_parse(data: object, capsys: pytest.CaptureFixture[str]) -> object:
    """Print data and parse it as a reader does who accepts nothing but JSON."""
    print_json(data)
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_nan_and_infinity_are_null_at_any_depth(value: float, capsys: pytest.CaptureFixture[str]) -> None:
    measurement = Measurement(latency_from_ms([1.0]), value, (0.5, value))
    data = {"rows": [1, [value, 2.5]], "measurement": dataclasses.asdict(measurement), "any": value}
    expected = dataclasses.asdict(measurement) | {"accuracy": None, "exit_shares": [0.5, None]}
    assert print_and_parse(data, capsys) == {"rows": [1, [None, 2.5]], "measurement": expected, "any": None}


def test_finite_values_are_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"text": "nan", "yes": True, "none": None, "large": 1e300, "whole": 2**60, "empty": []}
    assert print_and_parse(data, capsys) == data


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> "queue.Queue[str]":
    """Lines of progress, printed at short intervals."""
    lines: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(edge.console, "LINE_INTERVAL_S", 0.001)
    monkeypatch.setattr(edge.console, "log", lines.put)
    return lines


def test_a_task_that_runs_long_prints_its_state_without_a_terminal(lines: "queue.Queue[str]") -> None:
    with ProgressDisplay() as display:
        display(Progress("training", 3, 10, "validation 91%"))
        assert lines.get(timeout=60).startswith("training, 3 of 10, validation 91%, ")
        display(Progress("training", 10, 10))
    with status("exporting"):
        while (line := lines.get(timeout=60)).startswith("training"):
            pass
        assert line.startswith("exporting, ")


def test_short_and_endless_tasks_print_nothing(lines: "queue.Queue[str]") -> None:
    with ProgressDisplay() as display:
        display(Progress("measuring", 1, 1))
        display(Progress("camera", 7, None, "cat at exit 0"))
        display(Progress("running", 0, 10))
        assert lines.get(timeout=60).startswith("running")
    assert all(lines.get().startswith("running") for _ in range(lines.qsize()))
