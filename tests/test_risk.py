"""A promise holds: the methods agree with MAPIE and with hand-counted cases, and keep their word in simulations."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value, get_r_hat_plus
from numpy.typing import NDArray
from scipy.stats import binom
from test_thresholds import Labels, all_right, costs, random_scores

from benchmarks import risk as benchmark
from calibration import operating_points, thresholds
from calibration.thresholds import RiskGuarantee, fit_thresholds
from edge.decision import Decisions, Scores, decide
from edge.errors import ThresholdError
from edge.risk import PROCEDURES, RISKS, Losses, binomial_cdf, betting_test, hoeffding_bentkus_test, min_samples
from tests.support.commands import little_memory

PROMISING = ("betting", "hoeffding-bentkus", "expectation")
METHODS = (*PROMISING, "none")
each_risk = pytest.mark.parametrize("risk", ["accuracy_gap", "disagreement"])
each_promising_method = pytest.mark.parametrize("method", PROMISING)
shared_or_not = pytest.mark.parametrize("shared", [True, False], ids=["shared", "per exit"])


def losses_of(kind: str, count: int, mean: float, seed: int = 0) -> Losses:
    """Return losses from 0 to 1 whose expectation is `mean`: zeros and ones, any number, or mostly nothing."""
    generator = np.random.default_rng(seed)
    if kind == "binary":
        return (generator.random(count) < mean).astype(np.float64)
    if kind == "any":
        return generator.beta(2 * mean, 2 * (1 - mean), count)
    return np.where(generator.random(count) < 0.2, generator.random(count) * min(1.0, 10 * mean), 0.0)


each_kind = pytest.mark.parametrize("kind", ["binary", "any", "mostly nothing"])


# Against MAPIE and SciPy


@each_kind
@pytest.mark.parametrize("count", [1, 2, 30, 199, 1000, 5000])
def test_hoeffding_bentkus_refutes_at_mapies_p_value_and_not_below(kind: str, count: int) -> None:
    """MAPIE rounds `n r` up as it comes out; 7 of 25 is `25 * 0.28 = 7.000000000000001` there, and counts as 8.

    Of losses that are whole numbers it is therefore given a mean that is too small by less than it is rounded to
    here. Its `binary=True`, a smaller p-value for losses of 0 and 1, has no counterpart: a risk may be any number.
    """
    p_values = []
    for mean, limit in itertools.product((0.0001, 0.004, 0.03, 0.2, 0.6), (0.001, 0.005, 0.05, 0.3, 0.9)):
        losses = losses_of(kind, count, mean)
        given = np.array([max(0.0, losses.mean() - 1e-10 / count)])
        p_value = float(compute_hoeffding_bentkus_p_value(given, count, limit)[0, 0])
        if p_value < 1e-300:
            continue  # no float lies a little below it
        p_values.append(p_value)
        assert hoeffding_bentkus_test(losses, limit, p_value * (1 + 1e-6))
        assert not hoeffding_bentkus_test(losses, limit, p_value * (1 - 1e-6))
    assert min(p_values) < 0.1 < 0.9 < max(p_values)


def test_a_share_that_floats_cannot_hold_is_not_rounded_up_to_one_more_loss() -> None:
    losses = np.repeat([1.0, 0.0], [7, 18])
    assert math.ceil(25 * losses.mean()) == 8
    assert hoeffding_bentkus_test(losses, 0.6, math.e * binom.cdf(7, 25, 0.6) * (1 + 1e-9))


@each_kind
@pytest.mark.parametrize("count", [2, 3, 30, 199, 1000])
def test_betting_finds_below_what_mapies_upper_bound_is_not_above(kind: str, count: int) -> None:
    """MAPIE works on two halves of the samples, and adds up the most capital won within each as if they were one.

    That overstates the capital where some of it is lost again before the first half ends, and where the number of
    samples is odd it forgets the one in the middle. So all samples up to there lose just the limit, which neither wins
    nor loses anything, and random ones follow. MAPIE searches a grid for the first limit that holds: here that in
    question, and 1. It asks for capital beyond `1 / doubt` where we are content with just that much.
    """
    found = []
    for mean, limit, delta in itertools.product((0.003, 0.05, 0.3, 0.7), (0.01, 0.1, 0.4, 0.9), (0.01, 0.1, 0.5, 0.9)):
        losses = losses_of(kind, count, mean, seed=len(found))
        losses[: (count + 1) // 2] = limit
        grid = np.array([limit, 1.0])
        _, bound = get_r_hat_plus(np.tile(losses[:, None], 2), grid, "rcps", "wsr", delta, sigma_init=0.25)
        found.append(betting_test(losses, limit, delta))
        assert found[-1] == (bound[0] <= limit)
    assert 0 < sum(found) < len(found)


@pytest.mark.parametrize(("trials", "probability"), [(1, 0.5), (10, 0.001), (300, 0.05), (299, 0.95), (100_000, 0.005)])
def test_the_binomial_distribution_is_scipys(trials: int, probability: float) -> None:
    around = int(trials * probability)
    for successes in {0, 1, around, around + 1, 2 * around, trials - 1, trials, trials + 1}:
        expected = binom.cdf(successes, trials, probability)
        assert binomial_cdf(successes, trials, probability) == pytest.approx(expected, rel=1e-8)


# Small cases, counted by hand


def test_what_early_exits_lose_save_and_change_is_counted_for_each_sample() -> None:
    """The last exit says 1, 1, 2, 2, 3; early exits, in its place, 1, 2, 1, 3, 4; the truth is 1, 1, 1, 1, 4."""
    scores = Scores(np.ones((2, 5), np.float32), np.array([[0] * 5, [1, 1, 2, 2, 3]], np.int32))
    decisions = Decisions(np.zeros(5, np.intp), np.ones(5, np.float32), np.array([1, 2, 1, 3, 4], np.int32))
    truth = np.array([1, 1, 1, 1, 4])
    assert RISKS["accuracy_gap"](scores, decisions, truth).tolist() == [0, 1, -1, 0, -1]
    assert RISKS["disagreement"](scores, decisions, truth).tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("losses", "limit", "doubt", "expected"),
    [
        pytest.param([0, 0], 0.415, 0.5, True, id="1.415 squared is just above 1 / 0.5"),
        pytest.param([0, 0], 0.414, 0.5, False, id="1.414 squared is just below"),
        pytest.param([-1], 0.01, 0.5, True, id="a saved answer wins 1 and the limit"),
        pytest.param([0], 0.99, 0.5, False, id="a lossless sample wins the limit only"),
        pytest.param([1, -1, -1], 0.3, 0.5, False, id="0.3 is left of all that was bet, then 0.69, then 1.587"),
        pytest.param([1, -1, -1], 0.4, 0.5, True, id="0.4 is left of all that was bet, then 0.96, then 2.304"),
        pytest.param([-1, 1, 1, 1], 0.01, 0.5, True, id="what is lost after the goal was reached"),
    ],
)
def test_bets_of_all_there_is_win_and_lose_what_they_should(
    losses: list[float], limit: float, delta: float, expected: bool
) -> None:
    """So few samples are bet on with everything."""
    assert betting_test(np.array(losses, dtype=np.float64), limit, delta) is expected


@pytest.mark.parametrize(
    ("losses", "limit", "p_value"),
    [
        pytest.param([0, 0], 0.5, 0.25, id="no loss"),
        pytest.param([0, 0, 0], 0.1, 0.729, id="no loss, a small limit"),
        pytest.param([-1, 0, -1], 0.1, 0.729, id="saved answers do not count"),
        pytest.param([-1, 1, 1, 0], 0.5, 1.0, id="saved answers do not make up for lost ones"),
        pytest.param([1] + [0] * 99, 0.2, math.exp(-100 * (0.01 * math.log(0.05) + 0.99 * math.log(0.99 / 0.8))),
                     id="Hoeffding"),
    ],
)  # fmt: skip
def test_hoeffding_bentkus_has_the_p_value_counted_by_hand(losses: list[float], limit: float, p_value: float) -> None:
    found = [hoeffding_bentkus_test(np.array(losses), limit, p_value * (1 + step)) for step in (-1e-9, 1e-9)]
    assert found == [False, True]


def path_of(*points: Sequence[float]) -> Losses:
    return np.array(points, dtype=np.float64)


def test_on_average_the_limit_holds_as_if_one_more_sample_were_lost() -> None:
    lost = np.tril(np.ones((4, 9)), k=-1)  # no sample of nine, one, two, three
    assert PROCEDURES["expectation"](lost, 0.2, 0.05).tolist() == [True, True, False, False]
    assert PROCEDURES["expectation"](lost, 0.3, 0.05).tolist() == [True, True, True, False]
    assert PROCEDURES["expectation"](lost, 0.09, 0.05).tolist() == [False] * 4


def test_on_average_an_answer_once_lost_stays_lost_further_along_the_path() -> None:
    path = path_of([0] * 9, [1] + [0] * 8, [0, 1] + [0] * 7, [0] * 9)
    assert PROCEDURES["expectation"](path, 0.2, 0.05).tolist() == [True, True, False, False]
    assert PROCEDURES["expectation"](path, 0.3, 0.05).tolist() == [True] * 4


def test_on_average_an_answer_saved_does_not_make_up_for_one_lost() -> None:
    path = path_of([0] * 9, [-1] * 8 + [0], [-1] * 7 + [1, 1])
    assert PROCEDURES["expectation"](path, 0.2, 0.05).tolist() == [True, True, False]


def test_without_a_promise_only_these_samples_count() -> None:
    path = path_of([0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, -1], [1, 0, 0, -1])
    assert PROCEDURES["none"](path, 0.25, 0.05).tolist() == [True, False, False, True]
    assert PROCEDURES["none"](path, 0.5, 0.05).tolist() == [True] * 4


@pytest.mark.parametrize("method", ["betting", "hoeffding-bentkus"])
@pytest.mark.parametrize(
    ("harmful", "vouched"), [(0, []), (1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (None, [0, 1, 2, 3, 4])]
)
def test_a_point_that_is_not_vouched_for_ends_the_path(method: str, harmful: int | None, certified: list[int]) -> None:
    path = np.zeros((5, 200))
    if harmful is not None:
        path[harmful] = 1
    assert np.flatnonzero(PROCEDURES[method](path, 0.05, 0.05)).tolist() == certified


@shared_or_not
@each_promising_method
def test_images_recorded_class_by_class_prove_no_more_than_in_any_other_order(method: Any, shared: bool) -> None:
    """The last classes are those that early exits get wrong; bets on the first would be won long before."""
    scores, truth = lossless(1000)
    scores.label[:-1, 600:] = 0
    found = fit_thresholds(scores, truth, costs(3), RiskGuarantee(limit=0.05, method=method, shared=shared), "s")
    assert min(found.values) > 1


# How many samples it takes


@each_promising_method
@pytest.mark.parametrize("limit", [0.003, 0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("doubt", [0.01, 0.05, 0.5])
def test_so_many_lossless_samples_suffice_and_one_fewer_does_not(method: str, limit: float, delta: float) -> None:
    certify = PROCEDURES[method]
    count = min_samples(certify, limit, delta)
    assert certify(np.zeros((1, count)), limit, delta).tolist() == [True]
    assert count == 1 or certify(np.zeros((1, count - 1)), limit, delta).tolist() == [False]


@pytest.mark.parametrize(("limit", "doubt"), [(0.005, 0.05), (0.01, 0.05), (0.1, 0.1), (0.3, 0.01)])
def test_it_takes_as_many_samples_as_the_formulas_say(limit: float, delta: float) -> None:
    proof = math.ceil(math.log(delta) / math.log(1 - limit))
    assert min_samples(PROCEDURES["hoeffding-bentkus"], limit, delta) == proof
    assert min_samples(PROCEDURES["expectation"], limit, delta) == math.ceil(round(1 / limit - 1, 9))


def lossless(samples: int) -> tuple[Scores, Labels]:
    """Return three exits that are right and sure of all samples."""
    label, truth = all_right(3, samples)
    return Scores(np.full((3, samples), 0.99, dtype=np.float32), label), truth


@shared_or_not
@each_promising_method
@pytest.mark.parametrize(("limit", "level"), [(0.05, 0.95), (0.02, 0.9), (0.2, 0.5)])
def test_with_as_many_lossless_samples_as_the_refusal_names_it_succeeds_and_with_one_fewer_it_fails(
    method: Any, shared: bool, limit: float, level: float
) -> None:
    guarantee = RiskGuarantee(limit=limit, method=method, confidence_level=level, shared=shared)
    with pytest.raises(ThresholdError, match=f"2 samples are too few .* at most {limit} by '{method}'") as refusal:
        fit_thresholds(*lossless(2), costs(3), guarantee, "s")
    needed = int(str(refusal.value).split("it takes ")[1].split(";")[0])
    assert fit_thresholds(*lossless(needed), costs(3), guarantee, "s").values[0] < 1
    with pytest.raises(ThresholdError, match=f"{needed - 1} samples are too few .* it takes {needed};"):
        fit_thresholds(*lossless(needed - 1), costs(3), guarantee, "s")


@shared_or_not
@each_promising_method
def test_of_one_sample_it_is_said_that_it_is_too_few_and_nothing_else(method: Any, shared: bool) -> None:
    with pytest.raises(ThresholdError, match="1 samples are too few"):
        fit_thresholds(*lossless(1), costs(3), RiskGuarantee(limit=0.05, method=method, shared=shared), "s")


@each_promising_method
@pytest.mark.parametrize("limit", [1e-9, 1e-300])
def test_a_risk_too_small_for_any_samples_is_refused_without_filling_the_memory(method: Any, limit: float) -> None:
    with little_memory(256 << 20), pytest.raises(ThresholdError, match="500 samples are too few"):
        fit_thresholds(*lossless(500), costs(3), RiskGuarantee(limit=limit, method=method), "s")


# Promises that are none


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("limit", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_a_risk_that_is_no_fraction_is_refused(method: Any, limit: float) -> None:
    scores, truth = random_scores(2, 10, seed=0)
    with pytest.raises(ThresholdError, match=f"the risk to allow is {limit}; give a fraction above 0 and below 1"):
        fit_thresholds(scores, truth, costs(2), RiskGuarantee(limit=limit, method=method), split="")


@each_promising_method
def test_no_risk_at_all_cannot_be_promised(method: Any) -> None:
    with pytest.raises(ThresholdError, match=r"the risk to allow is 0\.0; give a fraction above 0"):
        fit_thresholds(*lossless(5000), costs(3), RiskGuarantee(limit=0.0, method=method), split="")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", [0.49, 1.0, -0.1, math.nan, math.inf])
def test_a_confidence_level_that_is_none_is_refused(method: Any, level: float) -> None:
    scores, truth = random_scores(2, 50, seed=0)
    guarantee = RiskGuarantee(limit=0.02, method=method, confidence_level=level)
    with pytest.raises(ThresholdError, match=f"the confidence level is {level}; give one from 0.5 up to 1"):
        fit_thresholds(scores, truth, costs(2), guarantee, split="s")


# Simulations


def test_the_benchmark_counts_promises_broken_on_the_pool_beside_a_naive_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "RESPLITS", 3)
    asked = list(benchmark.guarantees())
    assert len(asked) == 12
    assert len(benchmark.naive_of(asked)) == 4
    guarantee = RiskGuarantee("disagreement", 0.3, "betting", 0.9, shared=True)
    scores, truth = random_scores(3, 400, seed=1)
    kept = benchmark.fitted_often(guarantee, scores, truth, costs(3))
    assert kept.shape == (2, 3)
    row = benchmark.judged(guarantee, kept, np.array([[0.2, 0.4, 0.31], [0.5, 0.25, 0.75]]))
    assert row["violation_rate"] == (kept[0] > 0.3).mean()
    assert row["naive_violation_rate"] == pytest.approx(2 / 3)
    assert row["macs_over_naive"] == pytest.approx(kept[1].mean() / 0.5)


POOL, POOL_TRUTH = random_scores(3, 4000, seed=7)
"""All samples there are: drawing from them with replacement, what they lose is exactly what is to be expected."""
DRAWS, DRAWN, LIMIT, DOUBT = 500, 300, 0.05, 0.1


@pytest.fixture
def _fewer_trade_offs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take shorter paths, which changes nothing of what is promised, and most of the time a fit takes."""
    monkeypatch.setattr(operating_points, "PRICES", np.concatenate([np.zeros(1), np.geomspace(0.03, 0.6, 8)]))
    monkeypatch.setattr(thresholds, "SHARED_GRID", np.linspace(0.95, 0.6, 18))


def simulated(guarantee: RiskGuarantee, draws: int) -> tuple[NDArray[np.float64], float]:
    """Return what each of many fits costs the pool in risk, and their mean cost as a share of the whole network's."""
    generator = np.random.default_rng(1)
    share = np.cumsum(costs(3)) / sum(costs(3))
    risks, shares = np.empty(draws), np.empty(draws)
    for index in range(draws):
        drawn = generator.integers(0, len(POOL_TRUTH), DRAWN)
        scores = Scores(POOL.confidence[:, drawn], POOL.label[:, drawn])
        values = fit_thresholds(scores, POOL_TRUTH[drawn], costs(3), guarantee, "drawn").values
        decisions = decide(POOL, np.array(values, dtype=np.float32))
        risks[index] = RISKS[guarantee.risk](POOL, decisions, POOL_TRUTH).mean()
        shares[index] = share[decisions.exit_index].mean()
    return risks, float(shares.mean())


@shared_or_not
@each_risk
@pytest.mark.parametrize("method", ["betting", "hoeffding-bentkus"])
@pytest.mark.usefixtures("_fewer_trade_offs")
def test_no_more_fits_break_their_promise_than_the_confidence_says(method: Any, risk: Any, shared: bool) -> None:
    risks, cost = simulated(RiskGuarantee(risk, LIMIT, method, 1 - DOUBT, shared), DRAWS)
    assert (risks > LIMIT).mean() <= DOUBT + 3 * math.sqrt(DOUBT * (1 - DOUBT) / DRAWS)
    assert cost < 0.95


@shared_or_not
@each_risk
@pytest.mark.usefixtures("_fewer_trade_offs")
def test_the_mean_risk_of_many_fits_is_within_what_is_promised_on_average(risk: Any, shared: bool) -> None:
    risks, cost = simulated(RiskGuarantee(risk, LIMIT, "expectation", shared=shared), DRAWS)
    assert risks.mean() <= LIMIT + 3 * risks.std() / math.sqrt(DRAWS)
    assert cost < 0.95


@each_promising_method
@pytest.mark.usefixtures("_fewer_trade_offs")
def test_samples_that_chose_among_many_thresholds_do_not_judge_them(method: Any) -> None:
    """How sure an exit is says nothing here, but something can always be found in so few samples that seems to."""
    generator, exits, draws = np.random.default_rng(2), 6, 100
    risks = []
    for _ in range(draws):
        label, truth = all_right(exits, 120)
        label[:-1] = generator.random((exits - 1, 120)) > 0.3
        scores = Scores(generator.random((exits, 120), dtype=np.float32), label)
        values = fit_thresholds(scores, truth, costs(exits), RiskGuarantee(limit=0.1, method=method), "s").values
        risks.append(0.3 * (1 - np.prod(np.minimum(values, 1.0))))  # of what leaves early, whichever exit it takes
    if method == "expectation":
        assert np.mean(risks) <= 0.1 + 3 * np.std(risks) / math.sqrt(draws)
    else:
        assert np.mean(np.array(risks) > 0.1) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


@shared_or_not
@each_risk
@pytest.mark.usefixtures("_fewer_trade_offs")
def test_without_a_promise_many_more_fits_are_beyond_the_limit(risk: Any, shared: bool) -> None:
    """Were the methods above as careless, they would be found out."""
    risks, cost = simulated(RiskGuarantee(risk, LIMIT, "none", 1 - DOUBT, shared), DRAWS // 5)
    assert (risks > LIMIT).mean() > 3 * DOUBT
    assert cost < 0.95
