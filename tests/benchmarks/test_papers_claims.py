"""Each claim holds on the correct side of its boundary, and recorded claims follow from recorded results."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from benchmarks.papers import described
from benchmarks.papers.claims import NOT_RUN, claims_of
from benchmarks.papers.comparisons import Comparison
from benchmarks.papers.grid import BEST_CGT, BUDGETS, MAIN_TASK, VALIDATION_SEEDS
from benchmarks.papers.methods import CGT, DEFAULT, FORMER, GUIDED, JOINT, METHODS, WHOLE_ALONE
from benchmarks.papers.rows import at_budget, select
from tests.support.commands import ROOT

Row = dict[str, Any]
IMAGES = 10_000


def comparison(
    points: float,
    method: str = BEST_CGT,
    baseline: str = JOINT,
    budget: float = 0.15,
    task: str = MAIN_TASK,
    seeds: int = 3,
) -> Comparison:
    """Return a comparison of seeds that agree: of 400 images, some are gained by all and the others lost."""
    net = round(points / 100 * IMAGES)
    gained, lost = (400 + net) // 2, (400 - net) // 2
    by_seed = ((gained - lost) / IMAGES,) * seeds
    between = (0,) * (seeds - 1)
    by_image = (lost, *between, IMAGES - 400, *between, gained)
    return Comparison(task, method, baseline, budget, (budget, budget), by_seed, by_image)


def holds(claim: str, rows: list[Row], *comparisons: Comparison) -> bool | None:
    """Return whether the claim holds whose name contains these words."""
    [found] = [row for row in claims_of(rows, comparisons) if claim in row.claim]
    return found.holds


@pytest.mark.parametrize(("points", "expected"), [(0.8, True), (0.3, False), (-0.8, False)])
def test_gating_must_gain_more_than_chance(points: float, expected: bool) -> None:
    assert holds(f"{BEST_CGT} against joint, fashion, 15%", [], comparison(points)) == expected


def test_a_gain_among_several_budgets_must_survive_the_correction() -> None:
    marginal = comparison(0.44, budget=0.10)
    assert marginal.interval()[0] > 0
    others = [comparison(0.02, budget=budget) for budget in BUDGETS[1:]]
    claim = f"{BEST_CGT} against joint, fashion, 10%"
    assert holds(claim, [], marginal) is True
    assert holds(claim, [], marginal, *others) is False


def test_gains_of_other_tasks_and_methods_do_not_count() -> None:
    others = [comparison(2, task="fashion-noisy"), comparison(2, method=GUIDED), comparison(2, budget=0.3)]
    assert holds(f"{BEST_CGT} against joint, fashion, 15%", [], *others) is None


@pytest.mark.parametrize("baseline", [JOINT, FORMER])
@pytest.mark.parametrize(("points", "expected"), [(0.95, True), (0.8, False), (0.5, False)])
def test_the_default_recipe_must_gain_half_a_point_beyond_chance(points: float, expected: bool, baseline: str) -> None:
    measured = comparison(points, method=DEFAULT, baseline=baseline)
    assert holds(f"default recipe against {baseline},", [], measured) == expected


@pytest.mark.parametrize(("points", "expected"), [(0.45, True), (0.3, False), (0.02, False)])
def test_early_exits_must_be_shown_to_be_no_lower_than_the_plain_network_of_their_cost(
    points: float, expected: bool
) -> None:
    rival = comparison(points, method=DEFAULT, baseline="plain-5")
    assert holds("against a plain network, fashion, 15%", [], rival) == expected


def test_budgets_with_too_few_seeds_do_not_enter_the_correction() -> None:
    marginal = comparison(0.44, method=DEFAULT, baseline="plain-4", budget=0.10)
    claim = "against a plain network, fashion, 10%"
    for seeds, expected in ((2, True), (3, False)):
        others = [comparison(0.02, DEFAULT, "plain-5", budget, seeds=seeds) for budget in BUDGETS[1:]]
        assert holds(claim, [], marginal, *others) is expected


@pytest.mark.parametrize(("points", "expected"), [(0.25, True), (0.1, False), (-0.2, False)])
def test_early_exits_may_lose_a_fifth_of_a_point_against_the_whole_network(points: float, expected: bool) -> None:
    whole = comparison(points, method=DEFAULT, baseline=WHOLE_ALONE, budget=0.2)
    assert holds("against the whole network", [], whole) == expected
    assert holds("against a plain network, fashion, 20%", [], whole) is None


def test_the_interval_must_be_above_the_target_not_only_the_mean() -> None:
    """A gain that few seeds agree on has an interval that reaches far below the target."""
    agreeing = comparison(0.9, method=DEFAULT, baseline="plain-5")
    spread = replace(agreeing, by_seed=(0.001, 0.009, 0.017))
    assert spread.difference == pytest.approx(agreeing.difference)
    claim = "against a plain network, fashion, 15%"
    assert (holds(claim, [], agreeing), holds(claim, [], spread)) == (True, False)


# Attention maps

BEFORE = {
    "consistency_raw": [0.8, 0.8], "consistency_centred": [0.5, 0.5], "consistency_entropy": [0.9] * 3,
    "deletion": [0.3] * 3, "insertion": [0.7] * 3,
}  # fmt: skip


def map_rows(seeds: int = 3, spread: float = 0.0, **after: list[float]) -> list[Row]:
    """Return rows of networks without and with guidance; the latter have other values, spread over the seeds."""
    rows = []
    for seed in range(seeds):
        common = {"task": MAIN_TASK, "split": "test", "seed": seed}
        changed = {name: [value + (seed - 1) * spread for value in values] for name, values in after.items()}
        rows += [common | {"method": JOINT, "maps": BEFORE}, common | {"method": DEFAULT, "maps": BEFORE | changed}]
    return rows


@pytest.mark.parametrize(
    ("claim", "metric", "good", "bad"),
    [
        ("raw consistency", "consistency_raw", [0.87, 0.86], [0.85, 0.85]),
        ("mean-centred", "consistency_centred", [0.52, 0.5], [0.5, 0.49]),
        ("map entropy", "consistency_entropy", [0.9, 0.9, 0.9], [0.9, 0.9, 0.91]),
        ("deletion", "deletion", [0.3, 0.3, 0.29], [0.3, 0.3, 0.34]),
        ("insertion", "insertion", [0.7, 0.7, 0.71], [0.7, 0.7, 0.66]),
    ],
)
def test_attention_maps_must_improve_or_stay_faithful(
    claim: str, metric: str, good: list[float], bad: list[float]
) -> None:
    assert holds(claim, map_rows(**{metric: good})) is True
    assert holds(claim, map_rows(**{metric: bad})) is False


@pytest.mark.parametrize(
    ("worse", "spread", "expected"), [(0.009, 0.0, True), (0.011, 0.0, False), (0.0, 0.003, True), (0.0, 0.005, False)]
)
def test_faithfulness_holds_if_its_interval_over_seeds_is_within_the_margin(
    worse: float, spread: float, expected: bool
) -> None:
    assert holds("deletion", map_rows(spread=spread, deletion=[0.3 + worse] * 3)) == expected


# Indian Pines


def pines_rows(macro_f1: float = 0.99, precision: float = 0.99, recall: float = 0.99, first: float = 0.8) -> list[Row]:
    shares = [first, 1 - first, 0.0]
    point = {
        "budget": 0.3, "macro_f1": macro_f1, "precision": precision, "recall": recall, "exit_shares": shares,
    }  # fmt: skip
    row = {"task": "indian-pines", "method": BEST_CGT, "split": "test", "points": [point]}
    return [row | {"seed": seed} for seed in range(3)]


@pytest.mark.parametrize("figure", ["macro_f1", "precision", "recall"])
def test_each_of_f1_precision_and_recall_must_reach_its_figure(figure: str) -> None:
    assert holds("macro F1", pines_rows()) is True
    assert holds("macro F1", pines_rows(**{figure: 0.979})) is False


@pytest.mark.parametrize(("first", "expected"), [(0.71, True), (0.69, False)])
def test_the_first_exit_must_answer_enough_samples(first: float, expected: bool) -> None:
    assert holds("share of exit 0", pines_rows(first=first)) == expected


# Missing networks and recorded results


def test_a_verdict_needs_three_seeds() -> None:
    claims = claims_of(map_rows(seeds=2), [comparison(2, seeds=2)])
    measured = [claim for claim in claims if claim.measured != NOT_RUN]
    assert len(measured) == 1 + 5
    assert {claim.holds for claim in measured} == {None}
    assert holds(f"{BEST_CGT} against joint, fashion, 15%", [], comparison(2, seeds=3)) is True


def test_attention_maps_are_paired_by_seed() -> None:
    *rows, last = map_rows(seeds=4, consistency_centred=[0.6, 0.6])
    first, *others = rows
    assert holds("mean-centred", [*others, last]) is True
    assert holds("mean-centred", [*others[:-2], last]) is None
    assert first["method"] == JOINT


def test_claims_without_their_networks_are_not_run() -> None:
    claims = claims_of([], [])
    assert len(claims) == 3 * len(BUDGETS) + 2 + len(BUDGETS) + 1 + 5 + 2
    assert {(claim.measured, claim.holds) for claim in claims} == {(NOT_RUN, None)}


def test_validation_rows_do_not_enter_the_claims() -> None:
    rows = [row | {"split": "validation"} for row in map_rows(consistency_raw=[0.99, 0.99])]
    assert holds("raw consistency", rows) is None


RECORDED = json.loads((ROOT / "benchmarks" / "results" / "papers.json").read_text())


def recorded_comparisons() -> list[Comparison]:
    """Return the recorded comparisons, without derived fields."""
    fields = Comparison.__dataclass_fields__
    return [Comparison(**{name: _tuples(row[name]) for name in fields}) for row in RECORDED["comparisons"]]


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def test_recorded_claims_follow_from_recorded_rows_and_comparisons() -> None:
    comparisons = recorded_comparisons()
    assert [asdict(claim) for claim in claims_of(RECORDED["rows"], comparisons)] == RECORDED["claims"]
    assert json.loads(json.dumps([described(c) for c in comparisons])) == RECORDED["comparisons"]


def test_the_tested_form_of_gating_is_the_recorded_choice() -> None:
    """It has the highest accuracy on validation splits, as a mean over budgets and seeds."""
    validated = select(RECORDED["rows"], task=MAIN_TASK, split="validation")
    members = {method: select(validated, method=method) for method in CGT}
    means = {
        method: np.mean([at_budget(rows, "accuracy", budget) for budget in BUDGETS])
        for method, rows in members.items()
        if len(rows) == len(VALIDATION_SEEDS)
    }
    assert max(means, key=lambda method: means[method]) == BEST_CGT


def test_every_recorded_network_can_be_trained_again() -> None:
    assert {row["method"] for row in RECORDED["rows"]} <= METHODS.keys()
