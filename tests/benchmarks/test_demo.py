"""The demo's criteria, and the comparison with truncated networks."""

from typing import Any

import numpy as np
import pytest

from benchmarks.demo_report import comparison_table, items_list, precision_label, trade_off_figure
from benchmarks.demo_seeds import beats, criteria, exit_gains
from benchmarks.papers.evaluation import exit_macs
from benchmarks.truncated import matching_point, whole_macs
from calibration.operating_points import OperatingPoint
from compile.trained_model import load_trained_model
from edge.bundle.bundle import Bundle
from edge.cli.bench import ONNXRUNTIME_NOTE
from edge.decision import Scores
from edge.training.backbones import build_network
from edge.training.checkpoint import Checkpoint


def rival(exit_index: int, **changes: float) -> dict[str, float]:
    return {
        "exit": exit_index, "accuracy": 0.80, "macs_ratio": 0.1, "latency_ms_mean": 0.2,
        "early_exit_accuracy": 0.81, "early_exit_macs_ratio": 0.1, "early_exit_latency_ms_mean": 0.1,
        "early_exit_speedup": 2.0 if exit_index else 0.98,
    } | changes  # fmt: skip


def figures(**changes: Any) -> dict[str, Any]:
    return {
        "exit_accuracy": [0.76, 0.88, 0.905],
        "accuracy": {"whole": 0.905, "early_exit": 0.90},
        "exit_shares": [0.55, 0.3, 0.15],
        "truncated": [rival(0), rival(1), rival(2, early_exit_speedup=0.5)],
        "advice": [],
        "verified": True,
    } | changes


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, None),
        ({"exit_accuracy": [0.76, 0.91, 0.905]}, "no_exit_as_good_as_the_last"),
        ({"advice": ["int8: exit 1 alone is as accurate"]}, "no_exit_as_good_as_the_last"),
        ({"exit_shares": [0.91, 0.05, 0.04]}, "a_tenth_goes_on"),
        ({"verified": False}, "verified"),
        ({"accuracy": {"whole": 0.905, "early_exit": 0.88}}, "near_the_whole_network"),
        ({"truncated": [rival(0), rival(1, early_exit_accuracy=0.79), rival(2)]}, "beats_truncated_networks"),
    ],
)
def test_each_criterion_fails_on_its_own_figure(changes: dict[str, Any], fails: str | None) -> None:
    assert [name for name, holds in criteria(figures(**changes)).items() if not holds] == [fails] * (fails is not None)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (rival(0), True),
        (rival(0, early_exit_accuracy=0.80), False),
        (rival(0, early_exit_macs_ratio=0.12), False),
        (rival(1, early_exit_accuracy=0.80), True),
        (rival(1, early_exit_speedup=0.99), False),
        (rival(1, early_exit_accuracy=0.799), False),
    ],
)
def test_early_exits_beat_a_truncated_network_by_time_and_the_first_segment_by_accuracy(
    row: dict[str, float], expected: bool
) -> None:
    assert beats(row) is expected


def test_the_gain_of_an_exit_is_paired_with_the_exit_before_it() -> None:
    label = np.array([[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]])
    gains = exit_gains(Scores(np.ones_like(label, dtype=np.float32), label), [0, 0, 0, 0])
    assert [gain["gain"] for gain in gains] == [0.25, 0.25]
    assert [gain["standard_error"] for gain in gains] == pytest.approx([0.25, 0.25])
    [alike] = exit_gains(Scores(np.ones((2, 4), dtype=np.float32), label[[0, 0]]), [0, 0, 0, 0])
    assert alike == {"gain": 0.0, "standard_error": 0.0}


def point(accuracy: float, cost_ratio: float) -> OperatingPoint:
    return OperatingPoint((0.5,), accuracy, 0.0, cost_ratio, (0.5, 0.5))


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.79, 0.1), (0.81, 0.3), (0.82, 0.3), (0.88, 0.45), (0.90, 0.9)], (0.82, 0.3)),
        ([(0.79, 0.1), (0.87, 0.5), (0.90, 0.9)], (0.87, 0.5)),  # as expensive as the rival, and more accurate
        ([(0.60, 0.1), (0.75, 0.4), (0.75, 0.3), (0.90, 0.9)], (0.75, 0.3)),  # none is as accurate at its cost
    ],
)
def test_a_truncated_network_is_compared_with_the_cheapest_point_of_its_accuracy(
    points: list[tuple[float, float]], expected: tuple[float, float]
) -> None:
    chosen = matching_point([point(*values) for values in points], accuracy=0.80, cost_ratio=0.5)
    assert (chosen.accuracy, chosen.cost_ratio) == expected


def test_the_network_without_early_exits_has_none_of_their_heads(
    digits_checkpoint: Checkpoint, digits_bundle: Bundle
) -> None:
    last = len(digits_bundle.manifest.exits) - 1
    settings, spec = digits_checkpoint.settings, digits_checkpoint.input
    alone = build_network(settings.backbone, spec.channels, len(digits_checkpoint.classes), truncated_at=last)
    whole = whole_macs(load_trained_model(digits_checkpoint), last + 1)
    assert [whole] == exit_macs(alone, spec)
    assert whole < sum(exit_.macs for exit_ in digits_bundle.manifest.exits)


def test_times_of_int8_stand_beside_the_reason_for_them() -> None:
    table = comparison_table({"precisions": {"fp32": figures(), "int8": figures()}})
    assert precision_label("int8") == "int8 (emulated in float here)"
    assert table.count("int8 (emulated in float here)") == 3
    assert ONNXRUNTIME_NOTE in table
    assert "<td>fp32</td>" in table


def test_a_report_without_advice_has_no_heading_for_it() -> None:
    assert items_list("Advice", []) == ""
    assert "exit 0 &lt; exit 1" in items_list("Advice", ["exit 0 < exit 1"])


@pytest.mark.parametrize(("truncated", "lines"), [([], 2), ([rival(0), rival(1), rival(2)], 3)])
def test_truncated_networks_are_drawn_if_there_are_any(
    truncated: list[dict[str, float]], lines: int, digits_bundle: Bundle
) -> None:
    recorded, thresholds = digits_bundle.scores("int8"), digits_bundle.precision("int8").thresholds.values
    costs = {"exit_macs_ratio": [0.1, 0.4, 1.1]}
    report = {"precision": "int8", "thresholds": thresholds, "truncated": truncated} | costs
    figure = trade_off_figure(report, digits_bundle, recorded.truth.tolist(), recorded.scores)
    assert len(figure.axes[0].lines) == lines
