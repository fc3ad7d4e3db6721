"""Candidates in the manifest: certified, spread over costs, with bounds that hold for other samples."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from calibration import sequences
from calibration.budget import fit_to_macs, fit_to_ms
from calibration.candidates import MAX_CANDIDATES, spread_over_costs
from calibration.operating_points import OperatingPoint, operating_point_of
from calibration.thresholds import RiskGuarantee, fit_all_precisions, fit_thresholds
from edge.bundle.manifest import Candidate
from edge.decision import Scores, decide
from edge.risk import clopper_pearson_bound
from tests.support.scores import Labels, random_scores, segment_costs

MACS = segment_costs(3)
POOL, POOL_TRUTH = random_scores(3, 4000, seed=7)


def candidates_of(scores: Scores, truth: Labels, guarantee: RiskGuarantee) -> tuple[Candidate, ...]:
    return fit_thresholds(scores, truth, MACS, guarantee, "s").candidates


def disagreement_of(scores: Scores, candidate: Candidate) -> float:
    """Return the share of predictions that differ from the last exit's."""
    decisions = decide(scores, np.array(candidate.values, dtype=np.float32))
    return float((decisions.label != scores.label[-1]).mean())


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("method", ["exact", "betting", "hoeffding-bentkus", "expectation"])
def test_candidates_lead_from_the_whole_network_to_the_fitted_thresholds(method: Any, shared: bool) -> None:
    scores, truth = random_scores(3, 1500, seed=2)
    fitted = fit_thresholds(scores, truth, MACS, RiskGuarantee("disagreement", 0.2, method, 0.9, shared), "s")
    first, *_, last = fitted.candidates
    assert min(first.values) > 0.9
    assert last.values == fitted.values
    assert 3 <= len(fitted.candidates) <= MAX_CANDIDATES
    costs = [candidate.mean_macs for candidate in fitted.candidates]
    assert costs == sorted(costs, reverse=True)
    assert max(-np.diff(costs)) < 0.6 * (costs[0] - costs[-1])
    for candidate in fitted.candidates:
        point = operating_point_of(scores, truth, MACS, np.array(candidate.values, dtype=np.float32))
        assert candidate.mean_macs == point.cost_ratio
        assert candidate.risk_bound == 0.2
        assert candidate.disagreement_bound is not None
        assert disagreement_of(scores, candidate) < candidate.disagreement_bound < 0.5


def test_each_precision_has_bounds_from_its_own_scores() -> None:
    scores, truth = random_scores(3, 2000, seed=3)
    worse = Scores(scores.confidence, scores.label.copy())
    worse.label[:2] = (worse.label[:2] + (np.random.default_rng(0).random((2, 2000)) < 0.1)) % 4
    guarantee = RiskGuarantee("disagreement", 0.3, "betting", 0.9)
    fitted = fit_all_precisions({"fp32": scores, "int8": worse}, truth, MACS, guarantee, "s")
    bounds = {name: fit.candidates[-1].disagreement_bound for name, fit in fitted.items()}
    assert len(fitted["fp32"].candidates) == len(fitted["int8"].candidates)
    assert bounds["fp32"] is not None
    assert bounds["int8"] is not None
    assert bounds["int8"] > bounds["fp32"] + 0.03


def test_fits_without_certification_have_one_candidate_without_bounds() -> None:
    scores, truth = random_scores(3, 300, seed=1)
    fits = (
        fit_thresholds(scores, truth, MACS, RiskGuarantee(limit=0.05, method="none"), "s"),
        fit_to_macs(scores, truth, MACS, 0.6, "s"),
        fit_to_ms(scores, truth, MACS, [1.0, 1.0, 4.0], 3.0, "s"),
    )
    for fitted in fits:
        point = operating_point_of(scores, truth, MACS, np.array(fitted.values, dtype=np.float32))
        assert fitted.candidates == (Candidate(fitted.values, None, None, point.cost_ratio),)


def test_a_network_with_one_exit_agrees_with_itself() -> None:
    scores, truth = random_scores(1, 50, seed=0)
    fitted = fit_thresholds(scores, truth, [5], RiskGuarantee(limit=0.05), "s")
    assert fitted.candidates == (Candidate((), 0.0, 0.0, 1.0),)


def point(cost_ratio: float, accuracy: float = 0.9) -> OperatingPoint:
    return OperatingPoint((cost_ratio,), accuracy, 0.0, cost_ratio, ())


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([1.0], [0]),
        ([1.0, 0.2], [0, 1]),
        ([0.2, 1.0], [1, 0]),
        ([1.0, 0.99, 0.61, 0.6, 0.2], [0, 3, 4]),
        ([1.0, 1.0, 1.0], [0]),
    ],
)
def test_points_are_selected_at_evenly_spaced_costs(costs: list[float], expected: list[int]) -> None:
    assert spread_over_costs([point(cost) for cost in costs], count=3) == expected


def test_the_most_accurate_of_equally_expensive_points_is_selected() -> None:
    points = [point(1.0), point(0.5, 0.8), point(0.5, 0.85), point(0.5, 0.8)]
    assert spread_over_costs(points) == [0, 2]


@pytest.mark.parametrize("shared", [True, False])
def test_bounds_on_the_disagreement_hold_for_all_candidates_together(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fitted risk is the accuracy gap, so the disagreement has no limit but its bound."""
    monkeypatch.setattr(sequences, "DISAGREEMENT_ODDS", np.geomspace(0.01, 1, 18))
    monkeypatch.setattr(sequences, "SHARED_GRID", np.linspace(0.95, 0.6, 18))
    generator, draws, exceeded = np.random.default_rng(1), 200, 0
    guarantee = RiskGuarantee("accuracy_gap", 0.05, "betting", 0.8, shared)
    for _ in range(draws):
        drawn = generator.integers(0, len(POOL_TRUTH), 300)
        fitted = candidates_of(POOL.select(drawn), POOL_TRUTH[drawn], guarantee)
        bounds = [candidate.disagreement_bound for candidate in fitted]
        exceeded += any(disagreement_of(POOL, each) > bound for each, bound in zip(fitted, bounds, strict=True))
    assert exceeded <= draws * (0.2 + 3 * (0.2 * 0.8 / draws) ** 0.5)


def test_the_bound_of_thresholds_that_never_exit_shrinks_with_the_samples() -> None:
    """Their bound is that of no disagreement among the samples, corrected for the number of tested thresholds."""
    guarantee = RiskGuarantee(limit=0.1, shared=True)
    bounds = []
    for samples in (200, 2000):
        first, *_ = candidates_of(POOL.select(np.arange(samples)), POOL_TRUTH[:samples], guarantee)
        tested = len(sequences.SHARED_GRID) + 1
        assert first.disagreement_bound == clopper_pearson_bound(0, samples, guarantee.delta / tested)
        bounds.append(first.disagreement_bound)
    assert bounds[1] < bounds[0] / 5


def test_the_disagreement_bound_of_conformal_fits_has_the_default_confidence() -> None:
    conformal = RiskGuarantee("disagreement", 0.2, "expectation", 0.6, shared=True)
    betting = dataclasses.replace(conformal, method="betting", confidence_level=0.95)
    first = [candidates_of(POOL, POOL_TRUTH, guarantee)[0] for guarantee in (conformal, betting)]
    assert first[0] == first[1]
