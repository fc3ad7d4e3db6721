"""Rejection: the error among accepted predictions keeps its limit, on samples that nothing else was fitted to."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from calibration import sequences
from calibration.budget import fit_to_macs
from calibration.rejection import Fitted, Labelled, RejectGuarantee, fit_with_rejection, outcomes
from calibration.thresholds import RiskGuarantee, fit_all_precisions
from edge.decision import Scores, accepted, decide
from edge.errors import ThresholdError
from edge.risk import empirical
from tests.support.scores import Labels, correct_labels, random_scores, segment_costs

MACS = segment_costs(3)
LABELS = tuple("abcd")
SHARED = RiskGuarantee("disagreement", 0.04, "betting", 0.9, shared=True)
POOL, EASY_TRUTH = random_scores(3, 4000, seed=7)
"""The population: samples are drawn from it with replacement, so its error is the true error."""
IS_HARD = (POOL.confidence[-1] < 0.7) & (np.random.default_rng(0).random(4000) < 0.5)
POOL_TRUTH = np.where(IS_HARD, (EASY_TRUTH + 1) % 4, EASY_TRUTH)
LIMIT, DELTA = 0.1, 0.1


def fit(
    scores: Scores,
    truth: Labels,
    reject: RejectGuarantee | None,
    guarantee: RiskGuarantee = SHARED,
    labels: Sequence[str] = LABELS,
) -> Fitted:
    """Return thresholds with a guarantee, and the rejection."""
    macs = segment_costs(len(scores.label))
    fit_thresholds = partial(fit_all_precisions, costs=macs, guarantee=guarantee, split="s")
    return fit_with_rejection(fit_thresholds, {"int8": scores}, truth, labels, reject, "s")["int8"]


def coverage_and_error(scores: Scores, truth: Labels, values: Sequence[float], threshold: float) -> tuple[float, float]:
    """Return the share of accepted predictions, and the share of wrong ones among them."""
    decisions = decide(scores, np.array(values, dtype=np.float32))
    [is_accepted] = accepted(decisions, len(scores.label) - 1, np.array([threshold], np.float32), LABELS)
    return float(is_accepted.mean()), float((decisions.label != truth)[is_accepted].mean())


def sure(samples: int, wrong: int = 0) -> tuple[Scores, Labels]:
    """Return scores of one exit that is confident for all samples, and wrong for the least confident of them."""
    label, truth = correct_labels(1, samples)
    confidence = np.linspace(0.99, 0.5, samples, dtype=np.float32)[None]
    label[0, samples - wrong :] = 0
    return Scores(confidence, label), truth


def test_without_a_guarantee_everything_is_accepted_and_fitted_to() -> None:
    fitted = fit(POOL, POOL_TRUTH, None)
    assert fitted.rejection is None
    assert fitted.thresholds.samples == len(POOL_TRUTH)


@pytest.mark.parametrize("method", ["betting", "hoeffding-bentkus"])
def test_the_rejection_records_its_guarantee_and_its_samples(method: Any) -> None:
    fitted = fit(POOL, POOL_TRUTH, RejectGuarantee(LIMIT, method, 0.9))
    assert fitted.rejection is not None
    assert (fitted.rejection.limit, fitted.rejection.method) == (LIMIT, method)
    assert (fitted.rejection.confidence_level, fitted.rejection.split) == (0.9, "s")
    assert fitted.rejection.samples == math.ceil(len(POOL_TRUTH) / 3)
    assert fitted.rejection.samples + fitted.thresholds.samples == len(POOL_TRUTH)
    coverage, error = coverage_and_error(POOL, POOL_TRUTH, fitted.thresholds.values, fitted.rejection.threshold)
    assert coverage == pytest.approx(fitted.rejection.coverage, abs=0.03)
    assert 0.5 < coverage < 0.99
    assert 0.5 * LIMIT < error <= LIMIT


def test_losses_have_a_mean_within_the_limit_exactly_if_the_error_among_the_accepted_is() -> None:
    samples = Labelled(*random_scores(3, 200, seed=3), LABELS)
    judged = outcomes(samples, (0.8, 0.8))
    for limit in (0.02, 0.1, 0.3):
        for is_accepted, losses in zip(judged.is_accepted, judged.losses(limit), strict=True):
            error = judged.is_wrong[is_accepted].mean() if is_accepted.any() else 0.0
            assert (losses.mean() <= limit + 1e-12) == (error <= limit + 1e-12)


def test_unsure_samples_that_are_wrong_are_rejected() -> None:
    """A network without early exits, wrong for its least confident tenth."""
    rejection = fit(*sure(3000, wrong=300), RejectGuarantee(0.02)).rejection
    assert rejection is not None
    assert 0.88 < rejection.coverage < 0.925
    boundary = 0.99 - 0.9 * 0.49
    assert boundary - 0.02 < rejection.threshold < boundary + 0.01


def test_a_network_that_errs_less_than_the_limit_rejects_nothing() -> None:
    rejection = fit(*sure(3000, wrong=3), RejectGuarantee(0.05)).rejection
    assert rejection is not None
    assert (rejection.threshold, rejection.coverage) == (0.0, 1.0)


def test_wrong_early_exits_cannot_be_made_up_for_at_the_last_exit() -> None:
    label, truth = correct_labels(2, 600)
    label[:, :300] = 0  # both exits agree, so that no limit on the disagreement keeps them from exiting
    scores = Scores(np.full((2, 600), 0.9, np.float32), label)
    with pytest.raises(ThresholdError, match=r"that the network is surest of are wrong, .* \(--reject-limit\), or let"):
        fit(scores, truth, RejectGuarantee(0.05))


@pytest.mark.parametrize("method", ["betting", "hoeffding-bentkus"])
def test_the_error_names_the_number_of_samples_needed(method: Any) -> None:
    guarantee = RejectGuarantee(0.05, method)
    with pytest.raises(ThresholdError, match=r"10 samples do not certify .* 0 of the 10 that") as refusal:
        fit(*sure(30), guarantee)
    needed = int(str(refusal.value).split("without an error it needs ")[1].split(";")[0])
    assert fit(*sure(3 * needed), guarantee).rejection is not None
    with pytest.raises(ThresholdError, match=f"{needed - 1} samples do not certify"):
        fit(*sure(3 * (needed - 1)), guarantee)


@pytest.mark.parametrize("samples", [0, 1, 2])
def test_too_few_samples_to_split_are_refused(samples: int) -> None:
    scores, truth = random_scores(3, samples, seed=0)
    with pytest.raises(ThresholdError, match="samples"):
        fit(scores, truth, RejectGuarantee(0.1))


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.0, math.nan])
def test_a_limit_that_is_not_a_fraction_is_refused(limit: float) -> None:
    with pytest.raises(ThresholdError, match=f"the limit of the error among the accepted is {limit}; give a fraction"):
        fit(POOL, POOL_TRUTH, RejectGuarantee(limit))


def test_an_invalid_confidence_level_is_refused() -> None:
    with pytest.raises(ThresholdError, match=r"the confidence level is 1\.0"):
        fit(POOL, POOL_TRUTH, RejectGuarantee(0.1, confidence_level=1.0))


def test_a_budget_has_a_rejection_too() -> None:
    fitted = fit_with_rejection(
        lambda scores, truth: {name: fit_to_macs(each, truth, MACS, 0.5, "s") for name, each in scores.items()},
        {"fp32": POOL}, POOL_TRUTH, LABELS, RejectGuarantee(0.2), "s",
    )["fp32"]  # fmt: skip
    assert fitted.rejection is not None
    assert fitted.thresholds.target_metric == "mean_macs"
    assert fitted.thresholds.samples + fitted.rejection.samples == len(POOL_TRUTH)


def test_predictions_of_a_none_class_are_not_accepted_and_its_samples_count_as_errors_elsewhere() -> None:
    """The same network, with a class that stands for objects of no class, trained to be sure of them."""
    generator = np.random.default_rng(0)
    scores, truth = sure(3000)
    is_none = generator.random(3000) < 0.3
    truth[is_none] = 3
    mistaken = RejectGuarantee(0.02)
    with pytest.raises(ThresholdError, match="do not certify"):
        fit(scores, truth, mistaken)
    scores.label[0, is_none] = 3
    for name in ("none", "unknown"):
        rejection = fit(scores, truth, mistaken, labels=("a", "b", "c", name)).rejection
        assert rejection is not None
        assert rejection.threshold == 0.0
        assert rejection.coverage == pytest.approx(0.7, abs=0.03)


@pytest.fixture
def _few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use fewer candidates: the guarantees are the same, and fits take a fraction of the time."""
    monkeypatch.setattr(sequences, "DISAGREEMENT_ODDS", np.geomspace(0.01, 1, 18))
    monkeypatch.setattr(sequences, "SHARED_GRID", np.linspace(0.95, 0.6, 18))


def simulated(draws: int, guarantee: RiskGuarantee, method: Any) -> tuple[float, list[float]]:
    """Return the share of fits that exceed the limit on the pool with any candidate, and the coverage of each fit.

    Where nothing can be certified there is no rejection, and no claim to violate.
    """
    generator, violated, coverages = np.random.default_rng(1), 0, []
    for _ in range(draws):
        drawn = generator.integers(0, len(POOL_TRUTH), 900)
        try:
            fitted = fit(POOL.select(drawn), POOL_TRUTH[drawn], RejectGuarantee(LIMIT, method, 1 - DELTA), guarantee)
        except ThresholdError:
            continue
        assert fitted.rejection is not None
        judge = partial(coverage_and_error, POOL, POOL_TRUTH, threshold=fitted.rejection.threshold)
        judged = [judge(candidate.values) for candidate in fitted.thresholds.candidates]
        violated += max(error for _, error in judged) > LIMIT
        coverages.append(judged[-1][0])
    return violated / draws, coverages


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per exit"])
@pytest.mark.parametrize("method", ["betting", "hoeffding-bentkus"])
@pytest.mark.usefixtures("_few_candidates")
def test_the_limit_is_exceeded_at_most_as_often_as_delta_allows(method: Any, shared: bool) -> None:
    draws = 200
    rate, coverages = simulated(draws, dataclasses.replace(SHARED, shared=shared), method)
    assert rate <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / draws)
    assert len(coverages) > 0.7 * draws
    assert 0.85 < np.mean(coverages) < 0.95


@pytest.mark.usefixtures("_few_candidates")
def test_an_empirical_fit_exceeds_the_limit_far_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """This shows that the simulation above would detect a rejection without a guarantee."""
    monkeypatch.setattr("calibration.rejection.PROCEDURES", {"betting": empirical})
    rate, _ = simulated(50, SHARED, "betting")
    assert rate > 3 * DELTA
