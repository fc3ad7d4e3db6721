"""Risk procedures agree with MAPIE, SciPy and hand calculations, and keep their guarantees in simulations."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value, get_r_hat_plus
from numpy.typing import NDArray
from scipy.stats import beta, binom

from benchmarks import risk as benchmark
from calibration import operating_points, sequences
from calibration.thresholds import RiskGuarantee, fit_thresholds
from edge.decision import Decisions, Scores, decide
from edge.errors import ThresholdError
from edge.risk import (
    HIGH_PROBABILITY_METHODS,
    NUISANCE_SHARE,
    PROCEDURES,
    RISKS,
    LazyLosses,
    Losses,
    betting_test,
    binomial_cdf,
    clopper_pearson_bound,
    exact_test,
    hoeffding_bentkus_test,
    min_samples,
)
from tests.support.commands import limited_memory
from tests.support.scores import Labels, correct_labels, random_scores, segment_costs

CERTIFYING = ("exact", "betting", "hoeffding-bentkus", "expectation")
METHODS = (*CERTIFYING, "none")
each_risk = pytest.mark.parametrize("risk", ["accuracy_gap", "disagreement"])
each_certifying_method = pytest.mark.parametrize("method", CERTIFYING)
shared_or_not = pytest.mark.parametrize("shared", [True, False], ids=["shared", "per exit"])


def losses_of(kind: str, count: int, mean: float, seed: int = 0) -> Losses:
    """Return random losses from 0 to 1: zeros and ones or beta-distributed with this mean, or mostly zeros."""
    generator = np.random.default_rng(seed)
    if kind == "binary":
        return (generator.random(count) < mean).astype(np.float64)
    if kind == "beta":
        return generator.beta(2 * mean, 2 * (1 - mean), count)
    return np.where(generator.random(count) < 0.2, generator.random(count) * min(1.0, 10 * mean), 0.0)


each_kind = pytest.mark.parametrize("kind", ["binary", "beta", "mostly zero"])


# Against MAPIE and SciPy


@each_kind
@pytest.mark.parametrize("count", [1, 2, 30, 199, 1000, 5000])
def test_hoeffding_bentkus_rejects_exactly_from_mapies_p_value_on(kind: str, count: int) -> None:
    """MAPIE does not guard `ceil(n r)` against rounding errors: 7 of 25 is `25 * 0.28 = 7.000000000000001`, so 8.

    MAPIE is therefore given a mean that is smaller by less than the rounding in `edge.risk`. Its `binary=True`, a
    smaller p-value for losses of 0 and 1, has no counterpart here.
    """
    p_values = []
    for mean, limit in itertools.product((0.0001, 0.004, 0.03, 0.2, 0.6), (0.001, 0.005, 0.05, 0.3, 0.9)):
        losses = losses_of(kind, count, mean)
        mean_loss = np.array([max(0.0, losses.mean() - 1e-10 / count)])
        p_value = float(compute_hoeffding_bentkus_p_value(mean_loss, count, limit)[0, 0])
        if p_value < 1e-300:
            continue  # a slightly smaller float may not exist
        p_values.append(p_value)
        assert hoeffding_bentkus_test(losses, limit, p_value * (1 + 1e-6))
        assert not hoeffding_bentkus_test(losses, limit, p_value * (1 - 1e-6))
    assert min(p_values) < 0.1 < 0.9 < max(p_values)


def test_a_rounding_error_in_the_mean_does_not_count_as_another_loss() -> None:
    losses = np.repeat([1.0, 0.0], [7, 18])
    assert math.ceil(25 * losses.mean()) == 8
    assert hoeffding_bentkus_test(losses, 0.6, math.e * binom.cdf(7, 25, 0.6) * (1 + 1e-9))


@each_kind
@pytest.mark.parametrize("count", [2, 3, 30, 199, 1000])
def test_betting_rejects_exactly_if_mapies_upper_bound_is_within_the_limit(kind: str, count: int) -> None:
    """MAPIE's bound differs in three ways, which the losses and the grid avoid.

    It works on two halves of the samples and adds the maxima of their capital, which overstates the capital if some is
    lost again before the first half ends, and it skips the middle sample of an odd number. So all samples up to there
    have a loss equal to the limit, which leaves the capital unchanged, and random losses follow. It searches a grid for
    the smallest limit that holds: the grid is the limit and 1. It requires a capital above `1 / delta`, `betting_test`
    one of at least `1 / delta`.
    """
    results = []
    for mean, limit, delta in itertools.product((0.003, 0.05, 0.3, 0.7), (0.01, 0.1, 0.4, 0.9), (0.01, 0.1, 0.5, 0.9)):
        losses = losses_of(kind, count, mean, seed=len(results))
        losses[: (count + 1) // 2] = limit
        grid = np.array([limit, 1.0])
        _, bound = get_r_hat_plus(np.tile(losses[:, None], 2), grid, "rcps", "wsr", delta, sigma_init=0.25)
        results.append(betting_test(losses, limit, delta))
        assert results[-1] == (bound[0] <= limit)
    assert 0 < sum(results) < len(results)


@pytest.mark.parametrize(("trials", "probability"), [(1, 0.5), (10, 0.001), (300, 0.05), (299, 0.95), (100_000, 0.005)])
def test_the_binomial_cdf_equals_scipys(trials: int, probability: float) -> None:
    mean = int(trials * probability)
    for successes in {0, 1, mean, mean + 1, 2 * mean, trials - 1, trials, trials + 1}:
        expected = binom.cdf(successes, trials, probability)
        assert binomial_cdf(successes, trials, probability) == pytest.approx(expected, rel=1e-8)


def ternary_losses(ones: int, minus_ones: int, count: int) -> Losses:
    return np.repeat([1.0, -1.0, 0.0], [ones, minus_ones, count - ones - minus_ones])


def ternary_sum_cdf(total: int, count: int, mean: float, nonzero: float) -> float:
    """Return `P(sum <= total)` by summation over the number of losses of -1."""
    up, down = (nonzero + mean) / 2, (nonzero - mean) / 2
    minus_ones = np.arange(count + 1)
    given = binom.cdf(total + minus_ones, count - minus_ones, up / (1 - down))
    return float((binom.pmf(minus_ones, count, down) * given).sum())


@pytest.mark.parametrize(("ones", "minus_ones", "count"), [(0, 0, 400), (3, 4, 300), (14, 8, 3650), (160, 140, 3000)])
@pytest.mark.parametrize("limit", [0.01, 0.05])
def test_the_exact_test_rejects_from_the_largest_probability_over_all_numbers_of_losses(
    ones: int, minus_ones: int, count: int, limit: float
) -> None:
    losses, results = ternary_losses(ones, minus_ones, count), []
    for delta in np.geomspace(1e-4, 0.5, 12):
        bound = beta.ppf(1 - NUISANCE_SHARE * delta, ones + minus_ones + 1, count - ones - minus_ones)
        shares = np.linspace(limit, bound, 9) if bound >= limit else []
        largest = max((ternary_sum_cdf(ones - minus_ones, count, limit, share) for share in shares), default=0.0)
        results.append(exact_test(losses, limit, delta))
        assert results[-1] == (largest <= (1 - NUISANCE_SHARE) * delta)
    assert results == sorted(results)


@pytest.mark.parametrize("gains", [0.0, 0.01, 0.04])
def test_the_exact_test_rejects_a_mean_at_the_limit_at_most_as_often_as_delta_allows(gains: float) -> None:
    generator, draws, limit, delta = np.random.default_rng(0), 2000, 0.02, 0.1
    rejected = 0
    for _ in range(draws):
        ones, minus_ones, _ = generator.multinomial(400, [limit + gains, gains, 1 - limit - 2 * gains])
        rejected += exact_test(ternary_losses(ones, minus_ones, 400), limit, delta)
    assert 0.2 * delta < rejected / draws <= delta + 3 * math.sqrt(delta * (1 - delta) / draws)


@pytest.mark.parametrize("delta", [0.5, 0.05, 1e-4, 1e-9])
def test_the_clopper_pearson_bound_equals_scipys(delta: float) -> None:
    for successes, trials in [(0, 1), (0, 300), (3, 300), (150, 300), (299, 300), (300, 300), (7, 100_000)]:
        expected = 1.0 if successes == trials else beta.ppf(1 - delta, successes + 1, trials - successes)
        assert clopper_pearson_bound(successes, trials, delta) == pytest.approx(expected, abs=1e-8)


# Hand calculations


def test_losses_equal_a_hand_calculation() -> None:
    """The last exit predicts 1, 1, 2, 2, 3; the early exit 1, 2, 1, 3, 4; the true labels are 1, 1, 1, 1, 4."""
    scores = Scores(np.ones((2, 5), np.float32), np.array([[0] * 5, [1, 1, 2, 2, 3]], np.int32))
    decisions = Decisions(np.zeros(5, np.intp), np.ones(5, np.float32), np.array([1, 2, 1, 3, 4], np.int32))
    truth = np.array([1, 1, 1, 1, 4])
    assert RISKS["accuracy_gap"](scores, decisions, truth).tolist() == [0, 1, -1, 0, -1]
    assert RISKS["disagreement"](scores, decisions, truth).tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("losses", "limit", "delta", "expected"),
    [
        pytest.param([0, 0], 0.415, 0.5, True, id="1.415 squared is just above 1 / 0.5"),
        pytest.param([0, 0], 0.414, 0.5, False, id="1.414 squared is just below"),
        pytest.param([-1], 0.01, 0.5, True, id="a loss of -1 wins 1 and the limit"),
        pytest.param([0], 0.99, 0.5, False, id="a loss of 0 wins the limit"),
        pytest.param([1, -1, -1], 0.3, 0.5, False, id="capital 0.3, then 0.69, then 1.587"),
        pytest.param([1, -1, -1], 0.4, 0.5, True, id="capital 0.4, then 0.96, then 2.304"),
        pytest.param([-1, 1, 1, 1], 0.01, 0.5, True, id="losses after the capital reached 1 / delta"),
    ],
)
def test_betting_equals_a_hand_calculation(losses: list[float], limit: float, delta: float, expected: bool) -> None:
    """With so few samples every bet is 1."""
    assert betting_test(np.array(losses, dtype=np.float64), limit, delta) is expected


@pytest.mark.parametrize(
    ("losses", "limit", "p_value"),
    [
        pytest.param([0, 0], 0.5, 0.25, id="no loss"),
        pytest.param([0, 0, 0], 0.1, 0.729, id="no loss, a small limit"),
        pytest.param([-1, 0, -1], 0.1, 0.729, id="negative losses count as 0"),
        pytest.param([-1, 1, 1, 0], 0.5, 1.0, id="negative losses do not offset positive ones"),
        pytest.param([1] + [0] * 99, 0.2, math.exp(-100 * (0.01 * math.log(0.05) + 0.99 * math.log(0.99 / 0.8))),
                     id="Hoeffding"),
    ],
)  # fmt: skip
def test_the_hoeffding_bentkus_p_value_equals_a_hand_calculation(
    losses: list[float], limit: float, p_value: float
) -> None:
    rejected = [hoeffding_bentkus_test(np.array(losses), limit, p_value * (1 + step)) for step in (-1e-9, 1e-9)]
    assert rejected == [False, True]


def sequence_of(*candidates: Sequence[float]) -> Losses:
    return np.array(candidates, dtype=np.float64)


def test_conformal_risk_control_adds_one_lost_sample() -> None:
    losses = np.tril(np.ones((4, 9)), k=-1)  # 0, 1, 2 and 3 of 9 samples lost
    assert PROCEDURES["expectation"](losses, 0.2, 0.05).tolist() == [True, True, False, False]
    assert PROCEDURES["expectation"](losses, 0.3, 0.05).tolist() == [True, True, True, False]
    assert PROCEDURES["expectation"](losses, 0.09, 0.05).tolist() == [False] * 4


def test_conformal_risk_control_keeps_a_sample_lost_along_the_sequence() -> None:
    losses = sequence_of([0] * 9, [1] + [0] * 8, [0, 1] + [0] * 7, [0] * 9)
    assert PROCEDURES["expectation"](losses, 0.2, 0.05).tolist() == [True, True, False, False]
    assert PROCEDURES["expectation"](losses, 0.3, 0.05).tolist() == [True] * 4


def test_conformal_risk_control_offsets_no_loss_with_a_later_gain() -> None:
    losses = sequence_of([0] * 9, [-1] * 8 + [0], [-1] * 7 + [1, 1])
    assert PROCEDURES["expectation"](losses, 0.2, 0.05).tolist() == [True, True, False]


def test_the_empirical_procedure_uses_the_mean_loss() -> None:
    losses = sequence_of([0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, -1], [1, 0, 0, -1])
    assert PROCEDURES["none"](losses, 0.25, 0.05).tolist() == [True, False, False, True]
    assert PROCEDURES["none"](losses, 0.5, 0.05).tolist() == [True] * 4


@pytest.mark.parametrize("method", PROCEDURES)
def test_lazy_losses_are_certified_as_an_array_is_and_none_is_computed_after_a_failed_test(method: str) -> None:
    losses = (np.random.default_rng(0).random((6, 500)) < np.array([0, 0, 0.01, 0.3, 0.2, 0])[:, None]).astype(float)
    computed: list[int] = []

    def losses_of(candidate: int) -> Losses:
        computed.append(candidate)
        return losses[candidate]

    certified = PROCEDURES[method](LazyLosses(losses_of, range(6)), 0.05, 0.05)
    np.testing.assert_array_equal(certified, PROCEDURES[method](losses, 0.05, 0.05))
    assert certified.tolist() == [True, True, True, False, False, method == "none"]
    assert computed == list(range(4 if method in HIGH_PROBABILITY_METHODS else 6))


@pytest.mark.parametrize("method", ["exact", "betting", "hoeffding-bentkus"])
@pytest.mark.parametrize(
    ("failing", "expected"), [(0, []), (1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (None, [0, 1, 2, 3, 4])]
)
def test_fixed_sequence_testing_stops_at_the_first_failure(
    method: str, failing: int | None, expected: list[int]
) -> None:
    losses = np.zeros((5, 200))
    if failing is not None:
        losses[failing] = 1
    assert np.flatnonzero(PROCEDURES[method](losses, 0.05, 0.05)).tolist() == expected


@shared_or_not
@each_certifying_method
def test_samples_sorted_by_class_do_not_weaken_the_test(method: Any, shared: bool) -> None:
    """Early exits get only the last classes wrong; unshuffled, the bets on the first would reach the capital before."""
    scores, truth = lossless(1000)
    scores.label[:-1, 600:] = 0
    guarantee = RiskGuarantee(limit=0.05, method=method, shared=shared)
    assert min(fit_thresholds(scores, truth, segment_costs(3), guarantee, "s").values) > 1


# Number of samples needed


@each_certifying_method
@pytest.mark.parametrize("limit", [0.003, 0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("delta", [0.01, 0.05, 0.5])
def test_the_smallest_number_of_samples_certifies_and_one_fewer_does_not(
    method: str, limit: float, delta: float
) -> None:
    certify = PROCEDURES[method]
    count = min_samples(certify, limit, delta)
    assert count is not None
    assert certify(np.zeros((1, count)), limit, delta).tolist() == [True]
    assert count == 1 or certify(np.zeros((1, count - 1)), limit, delta).tolist() == [False]


@pytest.mark.parametrize(("limit", "delta"), [(0.005, 0.05), (0.01, 0.05), (0.1, 0.1), (0.3, 0.01)])
def test_the_number_of_samples_needed_equals_the_formula(limit: float, delta: float) -> None:
    expected = math.ceil(math.log(delta) / math.log(1 - limit))
    assert min_samples(PROCEDURES["hoeffding-bentkus"], limit, delta) == expected
    assert min_samples(PROCEDURES["expectation"], limit, delta) == math.ceil(round(1 / limit - 1, 9))


def lossless(samples: int) -> tuple[Scores, Labels]:
    """Return scores of three exits that are right and confident for all samples."""
    label, truth = correct_labels(3, samples)
    return Scores(np.full((3, samples), 0.99, dtype=np.float32), label), truth


@shared_or_not
@each_certifying_method
@pytest.mark.parametrize(("limit", "level"), [(0.05, 0.95), (0.02, 0.9), (0.2, 0.5)])
def test_the_number_of_samples_in_the_error_is_enough_and_one_fewer_is_not(
    method: Any, shared: bool, limit: float, level: float
) -> None:
    guarantee = RiskGuarantee(limit=limit, method=method, confidence_level=level, shared=shared)
    with pytest.raises(
        ThresholdError, match=f"2 samples are too few .* at most {limit} with the method '{method}'"
    ) as refusal:
        fit_thresholds(*lossless(2), segment_costs(3), guarantee, "s")
    needed = int(str(refusal.value).split("which needs ")[1].split(";")[0])
    assert fit_thresholds(*lossless(needed), segment_costs(3), guarantee, "s").values[0] < 1
    with pytest.raises(ThresholdError, match=f"{needed - 1} samples are too few .* which needs {needed};"):
        fit_thresholds(*lossless(needed - 1), segment_costs(3), guarantee, "s")


@shared_or_not
@each_certifying_method
def test_a_single_sample_is_too_few(method: Any, shared: bool) -> None:
    with pytest.raises(ThresholdError, match="1 samples are too few"):
        fit_thresholds(*lossless(1), segment_costs(3), RiskGuarantee(limit=0.05, method=method, shared=shared), "s")


@each_certifying_method
@pytest.mark.parametrize("limit", [1e-9, 1e-300])
def test_a_limit_that_needs_too_many_samples_is_refused_in_little_memory(method: Any, limit: float) -> None:
    with limited_memory(256 << 20), pytest.raises(ThresholdError, match="500 samples are too few"):
        fit_thresholds(*lossless(500), segment_costs(3), RiskGuarantee(limit=limit, method=method), "s")


# Invalid guarantees


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("limit", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_a_limit_that_is_not_a_fraction_is_refused(method: Any, limit: float) -> None:
    scores, truth = random_scores(2, 10, seed=0)
    with pytest.raises(ThresholdError, match=f"the limit of the risk is {limit}; give a fraction above 0 and below 1"):
        fit_thresholds(scores, truth, segment_costs(2), RiskGuarantee(limit=limit, method=method), split="")


@each_certifying_method
def test_a_limit_of_zero_cannot_be_guaranteed(method: Any) -> None:
    with pytest.raises(ThresholdError, match=r"the limit of the risk is 0\.0; give a fraction above 0"):
        fit_thresholds(*lossless(5000), segment_costs(3), RiskGuarantee(limit=0.0, method=method), split="")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", [0.49, 1.0, -0.1, math.nan, math.inf])
def test_an_invalid_confidence_level_is_refused(method: Any, level: float) -> None:
    scores, truth = random_scores(2, 50, seed=0)
    guarantee = RiskGuarantee(limit=0.02, method=method, confidence_level=level)
    with pytest.raises(ThresholdError, match=f"the confidence level is {level}; give a fraction from 0.5 up to 1"):
        fit_thresholds(scores, truth, segment_costs(2), guarantee, split="s")


# Simulations


def test_the_benchmark_counts_exceeded_limits_beside_a_naive_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "RESPLITS", 3)
    scores, truth = random_scores(3, 400, seed=1)
    population = benchmark.Population("random", scores, truth, segment_costs(3), 300, {"disagreement": 0.3})
    guarantees = list(benchmark.guarantees(population.limits))
    assert len(guarantees) == 8
    assert len(benchmark.naive_guarantees(guarantees)) == 2
    guarantee = RiskGuarantee("disagreement", 0.3, "betting", 0.9, shared=True)
    fits = benchmark.fit_resamples(guarantee, population)
    assert fits.shape == (2, 3)
    row = benchmark.result_row(guarantee, fits, np.array([[0.2, 0.4, 0.31], [0.5, 0.25, 0.75]]))
    assert row["violation_rate"] == (fits[0] > 0.3).mean()
    assert row["naive_violation_rate"] == pytest.approx(2 / 3)
    assert row["macs_over_naive"] == pytest.approx(fits[1].mean() / 0.5)


POOL, POOL_TRUTH = random_scores(3, 4000, seed=7)
"""The population: samples are drawn from it with replacement, so its mean loss is the true risk."""
DRAWS, DRAWN, LIMIT, DELTA = 500, 300, 0.05, 0.1


@pytest.fixture
def _few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use fewer candidates: the guarantees are the same, and fits take a fraction of the time."""
    monkeypatch.setattr(operating_points, "COST_WEIGHTS", np.concatenate([np.zeros(1), np.geomspace(0.03, 0.6, 8)]))
    monkeypatch.setattr(sequences, "DISAGREEMENT_ODDS", np.geomspace(0.01, 1, 18))
    monkeypatch.setattr(sequences, "SHARED_GRID", np.linspace(0.95, 0.6, 18))


def simulated(guarantee: RiskGuarantee, draws: int) -> tuple[NDArray[np.float64], float]:
    """Return the risk of each of many fits on the pool, and their mean cost ratio."""
    generator = np.random.default_rng(1)
    cost = np.cumsum(segment_costs(3)) / sum(segment_costs(3))
    risks, cost_ratios = np.empty(draws), np.empty(draws)
    for index in range(draws):
        drawn = generator.integers(0, len(POOL_TRUTH), DRAWN)
        scores = Scores(POOL.confidence[:, drawn], POOL.label[:, drawn])
        values = fit_thresholds(scores, POOL_TRUTH[drawn], segment_costs(3), guarantee, "drawn").values
        decisions = decide(POOL, np.array(values, dtype=np.float32))
        risks[index] = RISKS[guarantee.risk](POOL, decisions, POOL_TRUTH).mean()
        cost_ratios[index] = cost[decisions.exit_index].mean()
    return risks, float(cost_ratios.mean())


@shared_or_not
@each_risk
@pytest.mark.parametrize("method", ["exact", "betting", "hoeffding-bentkus"])
@pytest.mark.usefixtures("_few_candidates")
def test_the_limit_is_exceeded_at_most_as_often_as_delta_allows(method: Any, risk: Any, shared: bool) -> None:
    risks, cost = simulated(RiskGuarantee(risk, LIMIT, method, 1 - DELTA, shared), DRAWS)
    assert (risks > LIMIT).mean() <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / DRAWS)
    assert cost < 0.95


@each_risk
def test_thresholds_per_exit_cost_no_more_than_a_shared_one(risk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 1 %, even where confidences mean nearly the same at all exits, so that there is little to tune."""
    monkeypatch.setattr(benchmark, "RESPLITS", 20)
    population = benchmark.synthetic_population()
    guarantee = RiskGuarantee(risk, population.limits[risk])
    (_, shared), (_, per_exit) = (
        benchmark.fit_resamples(replace(guarantee, shared=shared), population) for shared in (True, False)
    )
    assert per_exit.mean() <= 1.01 * shared.mean()


@shared_or_not
@each_risk
@pytest.mark.usefixtures("_few_candidates")
def test_conformal_risk_control_keeps_the_mean_risk_within_the_limit(risk: Any, shared: bool) -> None:
    risks, cost = simulated(RiskGuarantee(risk, LIMIT, "expectation", shared=shared), DRAWS)
    assert risks.mean() <= LIMIT + 3 * risks.std() / math.sqrt(DRAWS)
    assert cost < 0.95


@each_certifying_method
@pytest.mark.usefixtures("_few_candidates")
def test_tuning_many_thresholds_does_not_void_the_guarantee(method: Any) -> None:
    """Confidence is pure noise here, but in so few samples some thresholds always seem to help."""
    generator, exits, draws = np.random.default_rng(2), 6, 100
    risks = []
    for _ in range(draws):
        label, truth = correct_labels(exits, 120)
        label[:-1] = generator.random((exits - 1, 120)) > 0.3
        scores = Scores(generator.random((exits, 120), dtype=np.float32), label)
        values = fit_thresholds(
            scores, truth, segment_costs(exits), RiskGuarantee(limit=0.1, method=method), "s"
        ).values
        risks.append(
            0.3 * (1 - np.prod(np.minimum(values, 1.0)))
        )  # 30 % of early predictions are wrong, at whichever exit
    if method == "expectation":
        assert np.mean(risks) <= 0.1 + 3 * np.std(risks) / math.sqrt(draws)
    else:
        assert np.mean(np.array(risks) > 0.1) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


@shared_or_not
@each_risk
@pytest.mark.usefixtures("_few_candidates")
def test_an_empirical_fit_exceeds_the_limit_far_more_often(risk: Any, shared: bool) -> None:
    """This shows that the simulations above would detect a method without a guarantee."""
    risks, cost = simulated(RiskGuarantee(risk, LIMIT, "none", 1 - DELTA, shared), DRAWS // 5)
    assert (risks > LIMIT).mean() > 3 * DELTA
    assert cost < 0.95
