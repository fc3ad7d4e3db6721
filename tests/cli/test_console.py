"""What commands print for machines."""

import dataclasses
import json
import math

import numpy as np
import pytest

from edge.console import print_json
from edge.measure.bench import Measured
from edge.measure.latency import latency_from_ms


def printed(data: object, capsys: pytest.CaptureFixture[str]) -> object:
    """Return what a reader gets who takes nothing but what JSON allows."""
    print_json(data)
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_what_is_no_finite_number_is_null_however_deep_it_lies(
    value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = Measured(latency_from_ms([1.0]), value, (0.5, value))
    found = printed({"rows": [1, [value, 2.5]], "measured": dataclasses.asdict(measured), "any": value}, capsys)
    expected = dataclasses.asdict(measured) | {"accuracy": None, "exit_shares": [0.5, None]}
    assert found == {"rows": [1, [None, 2.5]], "measured": expected, "any": None}


def test_what_is_finite_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"text": "nan", "yes": True, "none": None, "large": 1e300, "whole": 2**60, "empty": []}
    assert printed(data, capsys) == data
