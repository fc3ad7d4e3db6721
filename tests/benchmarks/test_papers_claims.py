"""Each claim holds on the correct side of its boundary, and recorded claims follow from recorded rows."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.papers.claims import BUDGETS, WITHIN, claims_of
from benchmarks.papers.grid import ALPHA, BACKBONE, OURS, quick_grid
from benchmarks.papers.regimes import PAPER_REGIMES
from benchmarks.papers.rows import confidence_interval, largest_deviation
from edge.training.attention import ATTENTION_LOSSES
from edge.training.regimes import REGIMES
from tests.support.commands import ROOT

Row = dict[str, Any]


POINTS = ("whole", WITHIN, *BUDGETS)


def rows_of(dataset: str, seeds: int = 3) -> list[Row]:
    """Return rows of one dataset's networks; all have equal metrics."""
    networks: list[Row] = [{"regime": regime, "alpha": 0.0} for regime in ("joint", "hard-cgt", OURS)]
    networks += [{"regime": regime, "alpha": ALPHA} for regime in ("joint", OURS)]
    rows = [
        network | {"truncated_at": None, "operating_point": point, "seed": seed}
        for seed in range(seeds)
        for network in networks
        for point in POINTS
    ]
    rows += [
        {"regime": "truncated", "alpha": 0.0, "truncated_at": k, "operating_point": "alone", "seed": seed}
        for seed in range(seeds)
        for k in range(3)
    ]
    common: Row = {
        "dataset": dataset, "backbone": BACKBONE, "accuracy": 0.9, "macro_f1": 0.9, "precision": 0.9, "recall": 0.9,
        "exit_shares": [0.5, 0.3, 0.2], "macs_ratio": 0.5, "speedup_measured": 1.0, "consistency_raw": [0.8, 0.8],
        "consistency_centred": [0.2, 0.2], "map_entropy": [0.9, 0.9, 0.9], "deletion": [0.3, 0.3, 0.3],
        "insertion": [0.7, 0.7, 0.7],
    }  # fmt: skip
    return [common | row for row in rows]


def changed(rows: Sequence[Row], values: Row, **fields: Any) -> list[Row]:
    """Return the rows, with other values in those that have the given fields."""
    return [row | values if all(row[name] == value for name, value in fields.items()) else row for row in rows]


def holds(rows: Sequence[Row], claim: str) -> bool:
    """Return whether the claim holds whose name contains these words."""
    [row] = [row for row in claims_of(rows) if claim in row["claim"]]
    assert isinstance(row["holds"], bool)
    return row["holds"]


@pytest.mark.parametrize(("regime", "goal"), [(OURS, 0.97), ("hard-cgt", 0.95)])
@pytest.mark.parametrize("field", ["macro_f1", "precision", "recall"])
def test_each_of_f1_precision_and_recall_must_reach_the_papers_figure(field: str, regime: str, goal: float) -> None:
    fields = {"regime": regime, "alpha": 0.0, "operating_point": WITHIN}
    good = {"macro_f1": goal + 1e-9, "precision": goal + 1e-9, "recall": goal + 1e-9}
    rows = changed(rows_of("indian-pines"), good, **fields)
    assert holds(rows, f"{regime}, indian-pines: macro")
    assert not holds(changed(rows, {field: goal - 0.001}, **fields), f"{regime}, indian-pines: macro")
    assert holds(
        changed(rows, {field: 0.5}, regime="joint"), f"{regime}, indian-pines: macro"
    )  # rows of another regime


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.71, 0.2, 0.09), True), ((0.69, 0.22, 0.09), False), ((0.75, 0.14, 0.11), False)],
    ids=["both", "too few at the first exit", "too many at the last exit"],
)
def test_the_first_exit_must_have_enough_samples_and_the_last_few(shares: Sequence[float], expected: bool) -> None:
    fields = {"regime": OURS, "alpha": 0.0, "operating_point": WITHIN}
    assert (
        holds(changed(rows_of("indian-pines"), {"exit_shares": list(shares)}, **fields), "share of the first")
        == expected
    )


def varied_over_seeds(rows: Sequence[Row], field: str, centre: float, deviation: float, **fields: Any) -> list[Row]:
    """Return rows whose values have this mean and standard deviation over three seeds."""
    for seed, step in enumerate((-1, 0, 1)):
        rows = changed(rows, {field: centre + step * deviation}, seed=seed, **fields)
    return list(rows)


@pytest.mark.parametrize(("gain", "expected"), [(0.011, True), (0.009, False), (-0.02, False)])
def test_at_the_smallest_budget_gating_must_gain_more_than_a_standard_deviation(gain: float, expected: bool) -> None:
    fields = {"operating_point": BUDGETS[0], "alpha": 0.0}
    rows = varied_over_seeds(rows_of("fashion-mnist"), "accuracy", 0.8, 0.01, regime="joint", **fields)
    rows = changed(rows, {"accuracy": 0.8 + gain}, regime=OURS, **fields)
    assert holds(rows, f"soft-cgt against joint, fashion-mnist, {BUDGETS[0]}") == expected


@pytest.mark.parametrize("budget", BUDGETS[1:])
@pytest.mark.parametrize(("gain", "expected"), [(0.001, True), (0.0, False), (-0.001, False)])
def test_at_larger_budgets_gating_must_gain(budget: str, gain: float, expected: bool) -> None:
    fields = {"operating_point": budget, "alpha": 0.0}
    rows = changed(rows_of("fashion-mnist"), {"accuracy": 0.8}, regime="joint", **fields)
    rows = changed(rows, {"accuracy": 0.8 + gain}, regime=OURS, **fields)
    assert holds(rows, f"soft-cgt against joint, fashion-mnist, {budget}") == expected


@pytest.mark.parametrize(("drop", "expected"), [(0.0049, True), (-0.0049, True), (0.0051, False), (-0.0051, False)])
def test_guidance_must_neither_cost_nor_gain_half_a_point(drop: float, expected: bool) -> None:
    rows = changed(rows_of("fashion-mnist"), {"accuracy": 0.9 - drop}, alpha=ALPHA, operating_point="whole")
    assert holds(rows, "paired 95 % interval of accuracy") == expected


def test_a_wide_confidence_interval_does_not_hold_whatever_its_mean() -> None:
    rows = varied_over_seeds(rows_of("fashion-mnist"), "accuracy", 0.9, 0.02, alpha=ALPHA, operating_point="whole")
    assert not holds(rows, "paired 95 % interval of accuracy")


each_guided = pytest.mark.parametrize("dataset", ["fashion-mnist", "fashion-mnist-small"])
GUIDED = {"regime": "joint", "alpha": ALPHA, "operating_point": "whole"}


@each_guided
@pytest.mark.parametrize(
    ("claim", "values", "expected"),
    [
        ("raw consistency", {"consistency_raw": [0.91, 0.91]}, True),
        ("raw consistency", {"consistency_raw": [0.85, 0.97]}, True),
        ("raw consistency", {"consistency_raw": [0.89, 0.89]}, False),
        ("mean-centred", {"consistency_centred": [0.21, 0.2]}, True),
        ("mean-centred", {"consistency_centred": [0.2, 0.2]}, False),
        ("map entropy", {"map_entropy": [0.9, 0.9, 0.9]}, True),
        ("map entropy", {"map_entropy": [0.9, 0.9, 0.91]}, False),
        ("faithfulness", {"deletion": [0.3, 0.3, 0.3]}, True),
        ("faithfulness", {"deletion": [0.2, 0.3, 0.3], "insertion": [0.7, 0.7, 0.8]}, True),
        ("faithfulness", {"deletion": [0.3, 0.3, 0.31]}, False),
        ("faithfulness", {"insertion": [0.7, 0.7, 0.69]}, False),
    ],
)
def test_guided_maps_must_be_more_consistent_without_becoming_uniform_or_unfaithful(
    dataset: str, claim: str, values: Row, expected: bool
) -> None:
    assert holds(changed(rows_of(dataset), values, **GUIDED), claim) == expected


@each_guided
def test_centred_consistency_must_rise_on_every_seed(dataset: str) -> None:
    rows = changed(rows_of(dataset), {"consistency_centred": [0.6, 0.6]}, **GUIDED)
    assert holds(rows, "mean-centred")
    assert not holds(changed(rows, {"consistency_centred": [0.19, 0.19]}, seed=1, **GUIDED), "mean-centred")


@each_guided
@pytest.mark.parametrize(("worse", "expected"), [(0.009, True), (0.011, False)])
def test_faithfulness_may_be_worse_by_at_most_its_deviation_over_seeds(
    dataset: str, worse: float, expected: bool
) -> None:
    rows = rows_of(dataset)
    for seed, step in enumerate((-0.01, 0, 0.01)):
        rows = changed(rows, {"deletion": [0.3 + worse + step] * 3}, seed=seed, **GUIDED)
    assert holds(rows, "faithfulness") == expected


@pytest.mark.parametrize(("speedup", "expected"), [(2.5, True), (2.49, False)])
def test_the_speed_up_must_reach_the_target(speedup: float, expected: bool) -> None:
    fields = {"regime": OURS, "alpha": ALPHA, "operating_point": WITHIN}
    assert holds(changed(rows_of("fashion-mnist"), {"speedup_measured": speedup}, **fields), "speed-up") == expected


@pytest.mark.parametrize("exit_index", range(3))
@pytest.mark.parametrize(
    ("ours", "expected"),
    [((0.85, 3.0), True), ((0.84, 9.0), False), ((0.99, 2.9), False)],
    ids=["equal in both", "only faster", "only more accurate"],
)
def test_a_single_operating_point_must_match_a_truncated_network_in_accuracy_and_speed(
    ours: tuple[float, float], expected: bool, exit_index: int
) -> None:
    rows = changed(rows_of("fashion-mnist"), {"accuracy": 0.5, "speedup_measured": 1.0})
    rows = changed(rows, {"accuracy": 0.85, "speedup_measured": 3.0}, truncated_at=exit_index)
    point = {"accuracy": ours[0], "speedup_measured": ours[1]}
    rows = changed(rows, point, regime=OURS, alpha=ALPHA, operating_point=BUDGETS[0])
    assert holds(rows, f"truncated at exit {exit_index}") == expected


@pytest.mark.parametrize(("both", "expected"), [(0.86, True), (0.85, True), (0.84, False)])
@pytest.mark.parametrize("better", ["gated", "guided"])
def test_both_together_must_be_no_worse_than_the_better_of_the_two(better: str, both: float, expected: bool) -> None:
    fields = {"operating_point": BUDGETS[1]}
    rows = changed(rows_of("fashion-mnist"), {"accuracy": 0.8}, **fields)
    fields_of_better = {"regime": OURS, "alpha": 0.0} if better == "gated" else {"regime": "joint", "alpha": ALPHA}
    rows = changed(rows, {"accuracy": 0.85}, **fields_of_better, **fields)
    rows = changed(rows, {"accuracy": both}, regime=OURS, alpha=ALPHA, **fields)
    assert holds(rows, "EGT and soft-cgt together") == expected


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_every_claim_is_evaluated_for_any_number_of_seeds_and_serialisable(seeds: int) -> None:
    rows = [
        row for dataset in ("fashion-mnist", "fashion-mnist-small", "indian-pines") for row in rows_of(dataset, seeds)
    ]
    claims = claims_of(rows)
    assert len(claims) == 3 + (3 + 1 + 4 + 1) + 2 * 4
    assert json.loads(json.dumps(claims, allow_nan=False)) == claims
    assert all(set(claim) == {"claim", "asked_for", "measured", "holds"} for claim in claims)
    assert ("±" in json.dumps(claims, ensure_ascii=False).replace("±0.5 points", "")) == (seeds > 1)


@pytest.mark.parametrize(
    ("datasets", "claims"),
    [
        ((), 0),
        (("digits", "indian-pines-disjoint"), 0),
        (("indian-pines",), 3),
        (("fashion-mnist",), 13),
        (("fashion-mnist-small",), 4),
        (("indian-pines", "fashion-mnist-small"), 7),
    ],
)
def test_claims_about_missing_datasets_are_left_out(datasets: Sequence[str], claims: int) -> None:
    assert len(claims_of([row for dataset in datasets for row in rows_of(dataset)])) == claims


def test_the_quick_grid_covers_all_claims_but_hard_cgts() -> None:
    trained = {(run.dataset, run.regime, run.attention_weight) for run in quick_grid()}
    datasets = {run.dataset for run in quick_grid()}
    rows = [row for dataset in datasets for row in rows_of(dataset, seeds=1)]
    rows = [
        row for row in rows
        if row["truncated_at"] is not None or (row["dataset"], row["regime"], row["alpha"]) in trained
    ]  # fmt: skip
    assert len(claims_of(rows)) == 2 + 9 + 2 * 4


def test_rows_of_another_backbone_are_ignored() -> None:
    rows = changed(rows_of("fashion-mnist-small"), {"consistency_raw": [0.95, 0.95]}, **GUIDED)
    other = [row | {"backbone": "resnet18-cifar", "consistency_raw": [0.1, 0.1]} for row in rows if row["seed"] == 0]
    assert claims_of([*rows, *other]) == claims_of(rows)


def test_the_confidence_interval_is_students_and_unbounded_for_a_single_value() -> None:
    low, high = confidence_interval(np.array([0.01, 0.02, 0.03]))
    margin = 4.302653 * 0.01 / np.sqrt(3)
    assert (low, high) == (pytest.approx(0.02 - margin), pytest.approx(0.02 + margin))
    assert confidence_interval(np.array([0.01])) == (-np.inf, np.inf)


def test_the_largest_deviation_is_zero_for_single_values() -> None:
    assert largest_deviation(np.array([1.0, 3.0]), np.array([0.0, 4.0])) == pytest.approx(np.sqrt(8))
    assert largest_deviation(np.array([1.0])) == 0


# Recorded results


RECORDED = json.loads((ROOT / "benchmarks" / "results" / "papers.json").read_text())


def test_recorded_claims_follow_from_recorded_rows() -> None:
    assert claims_of(RECORDED["rows"]) == RECORDED["claims"]


def test_every_recorded_network_can_be_trained_again() -> None:
    for row in RECORDED["rows"]:
        assert row["regime"] in {*REGIMES, *PAPER_REGIMES, "truncated"}
        assert row["attention_loss"] in {*ATTENTION_LOSSES, None}
