"""The comparison of early exits with the network alone pairs the images of all folds."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from benchmarks.demo import GUARANTEE as DEMO_GUARANTEE
from benchmarks.demo import TRAINING
from benchmarks.elpv.comparison import compare, interval
from benchmarks.elpv.folds import ALONE, EARLY_EXITS, GUARANTEE, SETTINGS, UNGUIDED
from edge.training.__main__ import parser


def rows(early: str, alone: str) -> list[dict[str, Any]]:
    """Return the rows of one fold."""
    curve = [{"budget": 0.5, "macs_ratio": 0.4, "accuracy": 0.9}]
    exits = {"exit_accuracy": [0.8, 0.9], "macs_ratio": 0.5, "curve": curve}
    whole = {"exit_accuracy": [0.9], "macs_ratio": 1.0, "curve": [], "attention": {}}
    return [
        {"network": EARLY_EXITS, "correct": early, "latency_ms": 2.0, "attention": {"raw": [0.8, 1.0]}, **exits},
        {
            "network": UNGUIDED,
            "correct": "1" * len(early),
            "latency_ms": 3.0,
            "attention": {"raw": [0.6, 0.8]},
            **exits,
        },
        {"network": ALONE, "correct": alone, "latency_ms": 4.0, **whole},
    ]


def test_the_demo_trains_and_guarantees_the_same() -> None:
    options = vars(parser().parse_args(["--dataset", "elpv", "--output", "-", *TRAINING["elpv"]]))
    settings = dataclasses.asdict(SETTINGS)
    assert {name: options[name] for name in settings} == settings
    assert DEMO_GUARANTEE["elpv"] == ["--method", GUARANTEE.method, "--limit", str(GUARANTEE.limit)]


def test_networks_are_compared_on_the_same_images_of_all_folds() -> None:
    result = compare([*rows("1100", "1111"), *rows("1111", "1101")])
    assert (result["folds"], result["images"]) == (2, 8)
    assert {name: network["accuracy"] for name, network in result["networks"].items()} == {
        EARLY_EXITS: 6 / 8,
        UNGUIDED: 1.0,
        ALONE: 7 / 8,
    }
    assert {name: against["difference"] for name, against in result["against"].items()} == {
        ALONE: -1 / 8,
        UNGUIDED: -2 / 8,
    }
    assert result["speedup"] == [2.0, 2.0]
    assert result["networks"][EARLY_EXITS]["attention"] == {"raw": pytest.approx(0.9)}
    assert result["curve"] == [{"budget": 0.5, "macs_ratio": 0.4, "accuracy": 0.9}]


def test_the_interval_ignores_images_on_which_both_agree() -> None:
    assert interval([np.zeros(100, dtype=np.int64)] * 5) == [0.0, 0.0]


def test_the_interval_of_equal_folds_has_the_width_of_the_normal_approximation() -> None:
    fold = np.repeat([-1, 0, 1], [12, 180, 8]).astype(np.int64)
    low, high = interval([fold] * 5)
    half_width = 1.96 * fold.std() / np.sqrt(1000)
    assert (low, high) == pytest.approx((-0.02 - half_width, -0.02 + half_width), abs=0.001)


def test_the_interval_is_wider_where_folds_differ() -> None:
    folds = [np.full(1000, label, dtype=np.int64) for label in (-1, 0, 0, 0, 1)]
    low, high = interval(folds)
    half_width = 2.776 * np.sqrt(0.5 / 5)  # of Student's distribution with 4 degrees of freedom
    assert (low, high) == pytest.approx((-half_width, half_width), rel=0.05)
