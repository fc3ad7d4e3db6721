"""JSON on stdout: valid for any reader, whatever the numbers are."""

import dataclasses
import json
import math

import numpy as np
import pytest

from edge.console import print_json
from edge.measure.bench import Measurement
from edge.measure.latency import latency_from_ms


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
