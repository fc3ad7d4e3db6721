"""The papers' claims are judged by numbers that are right, at the boundary they name, and by real networks."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.papers import judge_all, train_all
from benchmarks.papers.claims import BUDGETS, WITHIN, claims_of
from benchmarks.papers.figures import write_figures
from benchmarks.papers.gradcam import agreement_with_gradcam
from benchmarks.papers.grid import ALPHA, BACKBONE, OURS, full_grid, name_of, quick_grid
from benchmarks.papers.metrics import calibration_error, confidence_metrics, decision_metrics, failure_auroc
from benchmarks.papers.rows import confidence_interval, largest_deviation
from benchmarks.results import write_result
from edge.decision import Decisions, Scores
from edge.training.backbones import build_network
from edge.training.checkpoint import read_checkpoint
from edge.training.datasets import dataset_names
from edge.training.loop import phase_ends
from edge.training.network import AttentionHead, MultiExitNetwork, Stages
from edge.training.regimes import REGIMES
from edge.training.settings import Settings
from edge.training.train import CHECKPOINT, train
from tests.support.networks import random_images, settled, tiny_cnn

Row = dict[str, Any]


def float32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def booleans(*values: int) -> np.ndarray:
    return np.array(values, dtype=bool)


# What is said of confidence


def test_calibration_error_is_the_sample_weighted_gap_between_confidence_and_accuracy() -> None:
    """Fifteen bins: 0.90 and 0.92 share one, 0.50 and 0.52 another."""
    confidence = float32(0.90, 0.92, 0.50, 0.52, 1.00)
    right = booleans(1, 0, 1, 1, 1)
    gaps = [2 * abs(0.91 - 0.5), 2 * abs(0.51 - 1.0), 1 * abs(1.0 - 1.0)]
    assert calibration_error(confidence, right) == pytest.approx(sum(gaps) / 5, abs=1e-6)


def test_overconfidence_and_underconfidence_cancel_only_within_a_bin() -> None:
    assert calibration_error(float32(0.61, 0.63), booleans(1, 0)) == pytest.approx(0.12, abs=1e-6)
    assert calibration_error(float32(0.2, 0.9), booleans(1, 0)) == pytest.approx(0.85, abs=1e-6)


def test_a_confidence_of_1_belongs_to_the_last_bin() -> None:
    assert calibration_error(float32(1.00, 0.95), booleans(0, 1)) == pytest.approx(0.95 / 2, abs=1e-6)


def test_calibrated_confidence_has_no_calibration_error() -> None:
    assert calibration_error(float32(*[0.75] * 4), booleans(1, 1, 1, 0)) == pytest.approx(0)
    assert calibration_error(float32(1, 1, 1), booleans(1, 1, 1)) == 0


@pytest.mark.parametrize(
    ("confidence", "right", "expected"),
    [
        ((0.9, 0.8, 0.3, 0.2), (1, 1, 0, 0), 1.0),
        ((0.9, 0.8, 0.3, 0.2), (0, 0, 1, 1), 0.0),
        ((0.9, 0.7, 0.5, 0.3), (1, 0, 0, 1), 0.5),
        ((0.9, 0.7, 0.5, 0.3), (1, 0, 1, 0), 0.75),
        ((0.5, 0.5, 0.5, 0.5), (1, 0, 1, 0), 0.5),
        ((0.9, 0.5, 0.5), (1, 1, 0), 0.75),
        ((0.9, 0.1), (1, 1), 1.0),
        ((0.9, 0.1), (0, 0), 1.0),
    ],
    ids=["right above wrong", "below", "around", "one pair swapped", "all ties", "one tie", "all right", "all wrong"],
)
def test_failure_auroc_is_the_share_of_correctly_ranked_pairs(
    confidence: Sequence[float], right: Sequence[int], expected: float
) -> None:
    assert failure_auroc(float32(*confidence), booleans(*right)) == pytest.approx(expected)


def test_confidence_metrics_cover_all_samples_at_each_exit() -> None:
    scores = Scores(
        np.stack([float32(0.9, 0.8, 0.6, 0.4), float32(0.9, 0.9, 0.9, 0.9)]),
        np.array([[0, 1, 0, 0], [0, 1, 1, 0]], dtype=np.int32),
    )
    found = confidence_metrics(scores, np.array([0, 1, 1, 1]))
    assert found["exit_accuracy"] == [0.5, 0.75]
    assert found["auroc"] == [1.0, 0.5]
    assert found["ece"] == pytest.approx([(0.1 + 0.2 + 0.6 + 0.4) / 4, 0.15], abs=1e-6)


# What is said of decisions


def decisions(labels: Sequence[int], exits: Sequence[int]) -> Decisions:
    return Decisions(np.array(exits), np.ones(len(labels), dtype=np.float32), np.array(labels, dtype=np.int32))


def test_precision_recall_and_f1_are_macro_means() -> None:
    """Of six samples of class 0 four are found, of two of class 1 both, and of one of class 2 none."""
    truth = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
    answers = [0, 0, 0, 0, 1, 1, 1, 1, 0]
    found = decision_metrics(decisions(answers, [0] * 9), truth, exits=1)
    precision, recall = (4 / 5, 2 / 4, 0), (4 / 6, 1, 0)
    f1 = [2 * 4 / (5 + 6), 2 * 2 / (4 + 2), 0]
    assert found["accuracy"] == pytest.approx(6 / 9)
    assert found["precision"] == pytest.approx(sum(precision) / 3)
    assert found["recall"] == pytest.approx(sum(recall) / 3)
    assert found["macro_f1"] == pytest.approx(sum(f1) / 3)


def test_routed_accuracy_covers_the_samples_of_an_exit_and_is_none_without_any() -> None:
    truth = np.array([0, 1, 1, 0])
    found = decision_metrics(decisions([0, 1, 0, 1], exits=[0, 0, 0, 2]), truth, exits=3)
    assert found["exit_shares"] == [0.75, 0, 0.25]
    assert found["routed_accuracy"] == [pytest.approx(2 / 3), None, 0]
    assert json.loads(json.dumps(found)) == found


def test_correct_predictions_have_perfect_metrics() -> None:
    found = decision_metrics(decisions([2, 0, 1], exits=[0, 1, 1]), np.array([2, 0, 1]), exits=2)
    assert [found[name] for name in ("accuracy", "precision", "recall", "macro_f1")] == [1, 1, 1, 1]


# What is trained


@pytest.mark.parametrize("grid", [full_grid, quick_grid])
def test_every_run_has_a_folder_of_its_own(grid: Callable[[], list[Settings]]) -> None:
    names = [name_of(run) for run in grid()]
    assert len(names) == len(set(names))
    assert all(name == name.strip("/") and ".." not in name for name in names)
    assert not any(one != other and other.startswith(f"{one}/") for one in names for other in names)


@pytest.mark.parametrize("grid", [full_grid, quick_grid])
def test_every_run_can_be_trained(grid: Callable[[], list[Settings]]) -> None:
    for run in grid():
        assert run.dataset in dataset_names()
        assert phase_ends(REGIMES[run.regime], run)[-1] == run.epochs
    for backbone, truncated_at in {(run.backbone, run.truncated_at) for run in grid()}:
        build_network(backbone, 1, 10, truncated_at)


def test_the_full_grid_repeats_every_run_per_seed_and_covers_the_claims() -> None:
    runs = full_grid((0, 1, 2))
    assert {run.seed for run in runs} == {0, 1, 2}
    once = [dataclasses.replace(run, seed=0) for run in runs if run.seed == 1]
    assert all(run in runs for run in once)
    for dataset in ("fashion-mnist", "fashion-mnist-small", "indian-pines", "indian-pines-disjoint"):
        mine = [run for run in runs if (run.dataset, run.backbone, run.seed) == (dataset, BACKBONE, 2)]
        plain = {run.regime for run in mine if not run.attention_weight and run.truncated_at is None}
        assert {run.regime for run in mine if run.attention_weight} == {"joint", OURS} <= plain
        assert sorted(run.truncated_at for run in mine if run.truncated_at is not None) == [0, 1, 2]
    assert plain_regimes(runs, "fashion-mnist") == set(REGIMES)


def plain_regimes(runs: Sequence[Settings], dataset: str) -> set[str]:
    return {run.regime for run in runs if run.dataset == dataset and not run.attention_weight}


def test_runs_of_a_dataset_are_consecutive_so_that_it_is_loaded_once() -> None:
    for runs in (full_grid(), quick_grid()):
        order = [run.dataset for run in runs]
        assert sum(one != other for one, other in itertools.pairwise(order)) == len(set(order)) - 1


# Claims

POINTS = ("whole", WITHIN, *BUDGETS)


def rows_of(dataset: str, seeds: int = 3) -> list[Row]:
    """Return rows of one dataset's networks, all of them alike but for a spread over seeds."""
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


def changed(rows: Sequence[Row], values: Row, **wanted: Any) -> list[Row]:
    """Return rows with other values where all that is wanted holds."""
    return [row | values if all(row[name] == one for name, one in wanted.items()) else row for row in rows]


def holds(rows: Sequence[Row], claim: str) -> bool:
    """Return what is said of the one claim whose name contains these words."""
    [found] = [one for one in claims_of(rows) if claim in one["claim"]]
    assert isinstance(found["holds"], bool)
    return found["holds"]


@pytest.mark.parametrize(("regime", "goal"), [(OURS, 0.97), ("hard-cgt", 0.95)])
@pytest.mark.parametrize("field", ["macro_f1", "precision", "recall"])
def test_each_of_f1_precision_and_recall_must_reach_the_papers_figure(field: str, regime: str, goal: float) -> None:
    wanted = {"regime": regime, "alpha": 0.0, "operating_point": WITHIN}
    good = {"macro_f1": goal + 1e-9, "precision": goal + 1e-9, "recall": goal + 1e-9}
    rows = changed(rows_of("indian-pines"), good, **wanted)
    assert holds(rows, f"{regime}, indian-pines: macro")
    assert not holds(changed(rows, {field: goal - 0.001}, **wanted), f"{regime}, indian-pines: macro")
    assert holds(changed(rows, {field: 0.5}, regime="joint"), f"{regime}, indian-pines: macro")  # another network's


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.71, 0.2, 0.09), True), ((0.69, 0.22, 0.09), False), ((0.75, 0.14, 0.11), False)],
    ids=["both", "too few leave first", "too many go to the end"],
)
def test_the_first_exit_must_have_enough_samples_and_the_last_few(shares: Sequence[float], expected: bool) -> None:
    wanted = {"regime": OURS, "alpha": 0.0, "operating_point": WITHIN}
    assert (
        holds(changed(rows_of("indian-pines"), {"exit_shares": list(shares)}, **wanted), "share of the first")
        == expected
    )


def spread_over_seeds(rows: Sequence[Row], field: str, centre: float, deviation: float, **wanted: Any) -> list[Row]:
    """Return rows whose values have this mean and standard deviation over three seeds."""
    for seed, step in enumerate((-1, 0, 1)):
        rows = changed(rows, {field: centre + step * deviation}, seed=seed, **wanted)
    return list(rows)


@pytest.mark.parametrize(("gain", "expected"), [(0.011, True), (0.009, False), (-0.02, False)])
def test_at_the_smallest_budget_gating_must_gain_more_than_a_standard_deviation(gain: float, expected: bool) -> None:
    wanted = {"operating_point": BUDGETS[0], "alpha": 0.0}
    rows = spread_over_seeds(rows_of("fashion-mnist"), "accuracy", 0.8, 0.01, regime="joint", **wanted)
    rows = changed(rows, {"accuracy": 0.8 + gain}, regime=OURS, **wanted)
    assert holds(rows, f"soft-cgt against joint, fashion-mnist, {BUDGETS[0]}") == expected


@pytest.mark.parametrize("budget", BUDGETS[1:])
@pytest.mark.parametrize(("gain", "expected"), [(0.001, True), (0.0, False), (-0.001, False)])
def test_at_larger_budgets_gating_must_gain(budget: str, gain: float, expected: bool) -> None:
    wanted = {"operating_point": budget, "alpha": 0.0}
    rows = changed(rows_of("fashion-mnist"), {"accuracy": 0.8}, regime="joint", **wanted)
    rows = changed(rows, {"accuracy": 0.8 + gain}, regime=OURS, **wanted)
    assert holds(rows, f"soft-cgt against joint, fashion-mnist, {budget}") == expected


@pytest.mark.parametrize(("lost", "expected"), [(0.0049, True), (-0.0049, True), (0.0051, False), (-0.0051, False)])
def test_guidance_must_neither_cost_nor_gain_half_a_point(lost: float, expected: bool) -> None:
    rows = changed(rows_of("fashion-mnist"), {"accuracy": 0.9 - lost}, alpha=ALPHA, operating_point="whole")
    assert holds(rows, "paired 95 % interval of accuracy") == expected


def test_a_wide_confidence_interval_does_not_hold_whatever_its_mean() -> None:
    rows = spread_over_seeds(rows_of("fashion-mnist"), "accuracy", 0.9, 0.02, alpha=ALPHA, operating_point="whole")
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
    wanted = {"regime": OURS, "alpha": ALPHA, "operating_point": WITHIN}
    assert holds(changed(rows_of("fashion-mnist"), {"speedup_measured": speedup}, **wanted), "speed-up") == expected


@pytest.mark.parametrize("exit_index", range(3))
@pytest.mark.parametrize(
    ("ours", "expected"),
    [((0.85, 3.0), True), ((0.84, 9.0), False), ((0.99, 2.9), False)],
    ids=["as good in both", "faster only", "more accurate only"],
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
    wanted = {"operating_point": BUDGETS[1]}
    rows = changed(rows_of("fashion-mnist"), {"accuracy": 0.8}, **wanted)
    one = {"regime": OURS, "alpha": 0.0} if better == "gated" else {"regime": "joint", "alpha": ALPHA}
    rows = changed(rows, {"accuracy": 0.85}, **one, **wanted)
    rows = changed(rows, {"accuracy": both}, regime=OURS, alpha=ALPHA, **wanted)
    assert holds(rows, "EGT and soft-cgt together") == expected


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_every_claim_is_evaluated_for_any_number_of_seeds_and_serialisable(seeds: int) -> None:
    rows = [
        row for dataset in ("fashion-mnist", "fashion-mnist-small", "indian-pines") for row in rows_of(dataset, seeds)
    ]
    claims = claims_of(rows)
    assert len(claims) == 3 + (3 + 1 + 4 + 1) + 2 * 4
    assert json.loads(json.dumps(claims, allow_nan=False)) == claims
    assert all(set(one) == {"claim", "asked_for", "measured", "holds"} for one in claims)
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
    reach = 4.302653 * 0.01 / np.sqrt(3)
    assert (low, high) == (pytest.approx(0.02 - reach), pytest.approx(0.02 + reach))
    assert confidence_interval(np.array([0.01])) == (-np.inf, np.inf)


def test_the_largest_deviation_is_zero_for_single_values() -> None:
    assert largest_deviation(np.array([1.0, 3.0]), np.array([0.0, 4.0])) == pytest.approx(np.sqrt(8))
    assert largest_deviation(np.array([1.0])) == 0


# Grad-CAM


def attending(weight: float) -> MultiExitNetwork:
    """Return a network with one feature, the image itself, that speaks for class 0 and is attended to, or avoided."""
    heads = [AttentionHead(1, 2) for _ in range(2)]
    with torch.no_grad():
        for head in heads:
            head.attend.weight.fill_(weight)
            head.classify.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            head.classify.bias.zero_()
    return MultiExitNetwork(Stages([nn.Identity(), nn.Identity()]), heads)


@pytest.mark.parametrize(("weight", "low", "high"), [(0.5, 0.9, 1.0), (-0.5, -1.0, -0.9)])
def test_attention_agrees_with_gradcam_if_it_follows_the_features_of_the_predicted_class(
    weight: float, low: float, high: float
) -> None:
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    found = agreement_with_gradcam(attending(weight), images)
    assert len(found) == 2
    assert all(low <= one <= high + 1e-6 for one in found)


def test_gradcam_does_not_change_the_network() -> None:
    network = settled(tiny_cnn)
    images = torch.from_numpy(random_images(4))
    before = [one.logits.detach().clone() for one in network(images)]
    found = agreement_with_gradcam(network, images)
    assert len(found) == 3
    assert all(-1 <= one <= 1 for one in found)
    assert all(torch.equal(one.logits, other) for one, other in zip(network(images), before, strict=True))
    assert all(weight.grad is None for weight in network.parameters())


# Real networks

JOINT = Settings(dataset="digits", backbone=BACKBONE, image_size=16, epochs=2, batch_size=64, attention_weight=0.0)
GROUP = [dataclasses.replace(JOINT, truncated_at=1, epochs=1), JOINT]
NEEDED = {
    "accuracy", "macro_f1", "precision", "recall", "exit_shares", "macs_ratio", "consistency_raw",
    "consistency_centred", "consistency_shuffled", "map_entropy", "speedup_measured",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Judged:
    """A folder of trained networks, and the rows about them."""

    folder: Path
    rows: list[Row]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """Train and judge a network and the same one truncated, which comes first."""
    folder = tmp_path_factory.mktemp("papers")
    for run in GROUP:
        train(run, folder / name_of(run))
    return Judged(folder, judge_all(GROUP, folder))


def test_every_operating_point_of_every_network_has_a_row(judged: Judged) -> None:
    found = [(row["regime"], row["truncated_at"], row["operating_point"]) for row in judged.rows]
    assert sorted(found, key=str) == sorted([("truncated", 1, "alone"), *(("joint", None, p) for p in POINTS)], key=str)
    assert all((row["dataset"], row["backbone"], row["seed"]) == ("digits", BACKBONE, 0) for row in judged.rows)


def test_every_row_has_all_fields_and_is_serialisable(judged: Judged, tmp_path: Path) -> None:
    assert all(set(row) >= NEEDED for row in judged.rows)
    assert len({frozenset(row) for row in judged.rows}) == 1  # claims look for the same fields in all rows
    json.dumps(judged.rows, allow_nan=False)
    write_result(tmp_path / "papers.json", {"rows": judged.rows})
    assert len(json.loads((tmp_path / "papers.json").read_text())["rows"]) == len(judged.rows)


def test_per_exit_fields_have_a_value_for_each_exit(judged: Judged) -> None:
    for row in judged.rows:
        exits = 1 if row["operating_point"] == "alone" else 3
        for field in ("exit_shares", "routed_accuracy", "exit_accuracy", "ece", "auroc", "map_entropy", "deletion",
                      "insertion", "gradcam_agreement"):  # fmt: skip
            assert len(row[field]) == exits, field
        for field in ("thresholds", "consistency_raw", "consistency_centred", "consistency_shuffled"):
            assert len(row[field]) == exits - 1, field
        assert sum(row["exit_shares"]) == pytest.approx(1)
        assert row["speedup_measured"] > 0


def test_the_whole_network_uses_its_last_exit_and_the_truncated_network_its_only_exit(judged: Judged) -> None:
    rows = {row["operating_point"]: row for row in judged.rows}
    whole, alone = rows["whole"], rows["alone"]
    assert whole["exit_shares"] == [0, 0, 1]
    assert whole["accuracy"] == whole["exit_accuracy"][-1] > 0.3  # it has learnt
    assert whole["macs_ratio"] == pytest.approx(1)
    assert alone["exit_shares"] == [1]
    assert alone["accuracy"] == alone["exit_accuracy"][0]
    assert 0.1 < alone["macs_ratio"] < 0.7  # of the whole network's, not of its own


def test_budgets_are_approximately_kept_on_the_test_split(judged: Judged) -> None:
    rows = {row["operating_point"]: row for row in judged.rows}
    ratios = [rows[budget]["macs_ratio"] for budget in BUDGETS]
    assert ratios == sorted(ratios)
    assert all(ratio <= float(budget.split()[1]) + 0.1 for ratio, budget in zip(ratios, BUDGETS, strict=True))


def test_map_metrics_do_not_depend_on_thresholds(judged: Judged) -> None:
    rows = [row for row in judged.rows if row["truncated_at"] is None]
    for field in ("consistency_raw", "map_entropy", "deletion", "insertion", "gradcam_agreement", "ece"):
        assert len({tuple(row[field]) for row in rows}) == 1
    for row in rows:
        assert all(0 <= one <= 1 + 1e-6 for field in ("consistency_raw", "map_entropy") for one in row[field])


def test_runs_are_trained_at_their_own_image_size(tmp_path: Path) -> None:
    runs = [dataclasses.replace(JOINT, image_size=size, epochs=1, seed=size) for size in (12, 16)]
    train_all(runs, tmp_path)
    sizes = [read_checkpoint(tmp_path / name_of(run) / CHECKPOINT).input.height for run in runs]
    assert sizes == [12, 16]


def test_finished_runs_are_not_trained_again(judged: Judged) -> None:
    paths = [judged.folder / name_of(run) / CHECKPOINT for run in GROUP]
    before = [path.stat().st_mtime_ns for path in paths]
    train_all(GROUP, judged.folder)
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_figure_is_written_for_each_dataset(judged: Judged, tmp_path: Path) -> None:
    pines = [row | {"dataset": "indian-pines", "alpha": ALPHA} for row in judged.rows]
    write_figures(tmp_path, [*pines, *judged.rows])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.png", "indian-pines.png"]
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_rows_of_another_backbone_have_no_figure(judged: Judged, tmp_path: Path) -> None:
    write_figures(tmp_path, [row | {"backbone": "resnet18-cifar"} for row in judged.rows])
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_dataset_give_no_claims(judged: Judged) -> None:
    assert claims_of(judged.rows) == []
