"""Fitted thresholds keep to their limit, and save nearly what can be saved within it."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.operating_points import OperatingPoint, describe, operating_points
from calibration.samples import FEWEST, stratified
from calibration.thresholds import SHARED_GRID, RiskGuarantee, _match_quantiles, fit_all_precisions, fit_thresholds
from edge.bundle.manifest import Thresholds
from edge.decision import NEVER, Scores, decide, validate_thresholds
from edge.errors import DataError, ThresholdError
from edge.risk import betting_test

CLASSES = 4
Labels = NDArray[np.int64]


def random_scores(exits: int, samples: int, seed: int, levels: int | None = None) -> tuple[Scores, Labels]:
    """Return scores that are the more often right the deeper the exit and the surer it is, and the true labels.

    Args:
        exits: How many exits.
        samples: How many samples.
        seed: Of everything random.
        levels: How many different confidences there may be, to force ties; None for any number.
    """
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, CLASSES, samples)
    difficulty = generator.normal(size=samples)
    reach = np.linspace(0.5, 2, exits)[:, None]
    right = difficulty + generator.normal(0, 0.5, (exits, samples)) < reach
    margin = reach - difficulty + generator.normal(0, 0.7, (exits, samples))
    confidence = 1 / (1 + np.exp(-margin))
    if levels is not None:
        confidence = np.round(confidence * levels) / levels
    wrong = (truth + generator.integers(1, CLASSES, (exits, samples))) % CLASSES
    return Scores(confidence.astype(np.float32), np.where(right, truth, wrong).astype(np.int32)), truth


def costs(exits: int) -> list[int]:
    """Return the multiply-accumulates of segments, each dearer than the one before."""
    return [2 + 3 * k for k in range(exits)]


def fitted(scores: Scores, truth: Labels, limit: float) -> tuple[Thresholds, OperatingPoint]:
    """Return fitted thresholds, and what they do to the scores they were fitted to."""
    macs = costs(len(scores.label))
    thresholds = fit_thresholds(scores, truth, macs, RiskGuarantee(limit=limit, method="none"), split="these")
    return thresholds, describe(scores, truth, macs, validate_thresholds(thresholds.values, exits=len(macs)))


def all_right(exits: int, samples: int) -> tuple[NDArray[np.int32], Labels]:
    return np.ones((exits, samples), dtype=np.int32), np.ones(samples, dtype=np.int64)


@given(
    exits=st.sampled_from([2, 3, 5]),
    samples=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    levels=st.sampled_from([None, 1, 4]),
    limit=st.sampled_from([0.0, 0.003, 0.02, 0.1, 0.5]),
    missing=st.floats(0, 0.5),
)
def test_the_accuracy_lost_is_never_more_than_was_allowed(
    exits: int, samples: int, seed: int, levels: int | None, limit: float, missing: float
) -> None:
    scores, truth = random_scores(exits, samples, seed, levels)
    scores.confidence[np.random.default_rng(seed).random(scores.confidence.shape) < missing] = np.nan
    thresholds, point = fitted(scores, truth, limit)
    final = float((scores.label[-1] == truth).mean())
    assert point.accuracy >= final - limit - 1e-9
    assert point.accuracy_gap == pytest.approx(final - point.accuracy)
    assert point.cost_ratio <= 1
    assert sum(point.exit_shares) == pytest.approx(1)
    assert (thresholds.limit, thresholds.samples, thresholds.split) == (limit, samples, "these")


@settings(max_examples=25)
@given(exits=st.sampled_from([2, 3, 5]), seed=st.integers(0, 2**32 - 1))
def test_the_more_accuracy_may_be_lost_the_less_is_computed(exits: int, seed: int) -> None:
    scores, truth = random_scores(exits, 50, seed)
    ratios = [fitted(scores, truth, limit)[1].cost_ratio for limit in (0.0, 0.01, 0.05, 0.2, 0.99)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] < 1


@pytest.mark.parametrize("limit", [0.0, 0.01])
@pytest.mark.parametrize("perfect", [0, 1, 2])
def test_an_early_exit_that_is_always_right_is_always_taken(perfect: int, limit: float) -> None:
    scores, truth = random_scores(4, 80, seed=0)
    scores.label[perfect:] = truth
    scores.label[:perfect] = (truth + 1) % CLASSES  # what comes before it is always wrong
    _, point = fitted(scores, truth, limit)
    expected = [0.0] * 4
    expected[perfect] = 1.0
    assert list(point.exit_shares) == expected
    assert point.accuracy == 1


def test_an_early_exit_that_is_always_wrong_is_never_taken_but_where_the_last_is_wrong_too() -> None:
    scores, truth = random_scores(2, 80, seed=0)
    scores.label[0] = (truth + 1) % CLASSES
    _, point = fitted(scores, truth, limit=0.0)
    assert point.accuracy == (scores.label[1] == truth).mean()


def test_a_network_with_one_exit_has_no_thresholds() -> None:
    thresholds, point = fitted(*random_scores(1, 40, seed=0), limit=0.0)
    assert thresholds.values == ()
    assert (point.cost_ratio, point.exit_shares) == (1, (1.0,))


def candidates(confidence: NDArray[np.float32]) -> list[float]:
    """Return every threshold that makes a difference."""
    return [0.0, *np.unique(confidence).tolist(), NEVER]


def least_computed(scores: Scores, truth: Labels, limit: float) -> float:
    """Return the smallest share of computation within the bound, all combinations of thresholds tried."""
    points = (
        describe(scores, truth, costs(len(scores.label)), np.array(thresholds, dtype=np.float32))
        for thresholds in itertools.product(*map(candidates, scores.confidence[:-1]))
    )
    return min(point.cost_ratio for point in points if point.accuracy_gap <= limit + 1e-12)


@pytest.mark.parametrize("limit", [0.0, 0.01, 0.05])
def test_trying_all_pairs_of_thresholds_saves_little_more(limit: float) -> None:
    """Only trade-offs on the convex hull are tried, so something is left: here up to 10 %, on average 3 %."""
    left = []
    for seed in range(8):
        scores, truth = random_scores(3, 200, seed, levels=32)
        left.append(fitted(scores, truth, limit)[1].cost_ratio - least_computed(scores, truth, limit))
    assert min(left) > -1e-9
    assert max(left) <= 0.1
    assert sum(left) / len(left) <= 0.03


def test_with_one_early_exit_every_trade_off_on_the_convex_hull_is_found() -> None:
    scores, truth = random_scores(2, 200, seed=1)
    found = operating_points(scores, truth, costs(2))
    possible = [
        describe(scores, truth, costs(2), np.array([threshold], np.float32))
        for threshold in candidates(scores.confidence[0])
    ]
    for price in np.geomspace(0.01, 1, 20):

        def worth(point: OperatingPoint, price: float = price) -> float:
            return point.accuracy - price * point.cost_ratio

        assert max(map(worth, found)) >= max(map(worth, possible)) - 0.002


@pytest.mark.parametrize(
    ("right", "share"),
    [
        pytest.param(20, 1.0, id="all right: all leave"),
        pytest.param(15, 0.0, id="some wrong: none leave, not even the right ones"),
    ],
)
def test_samples_of_one_confidence_leave_together_or_not_at_all(right: int, share: float) -> None:
    label, truth = all_right(2, 20)
    label[0, right:] = 0
    confidence = np.full((2, 20), 0.7, dtype=np.float32)
    _, point = fitted(Scores(confidence, label), truth, limit=0.1)
    assert point.exit_shares[0] == share


def test_ties_below_the_best_threshold_do_not_hide_it() -> None:
    label, truth = all_right(2, 20)
    confidence = np.repeat(np.array([[0.9, 0.8], [1.0, 1.0]], dtype=np.float32), 10, axis=1)
    label[0, 15:] = 0  # of the ten samples at 0.8, the right ones come first
    thresholds, point = fitted(Scores(confidence, label), truth, limit=0.0)
    assert point.exit_shares == (0.5, 0.5)
    assert 0.8 < thresholds.values[0] <= 0.9


def test_an_exit_is_judged_by_the_samples_that_get_that_far() -> None:
    label, truth = all_right(3, 50)
    confidence = np.full((3, 50), 0.5, dtype=np.float32)
    easy, middling, hard = slice(0, 30), slice(30, 40), slice(40, 50)
    confidence[0, easy], label[0, middling], label[0, hard] = 0.9, 0, 0
    confidence[1, easy], label[1, easy] = 0.8, 0  # exit 1 is sure and wrong, but only of what exit 0 has answered
    confidence[1, hard], label[1, 47:] = 0.3, 0
    _, point = fitted(Scores(confidence, label), truth, limit=0.0)
    assert point.exit_shares == (0.6, 0.2, 0.2)
    assert point.accuracy == 1


@pytest.mark.parametrize("surer", [0.99999994, 0.9999999])
def test_a_threshold_fits_between_neighbouring_confidences(surer: float) -> None:
    label, truth = all_right(2, 10)
    label[0, 5:] = 0
    confidence = np.ones((2, 10), dtype=np.float32)
    confidence[0, :5], confidence[0, 5:] = surer, np.nextafter(np.float32(surer), np.float32(0))
    _, point = fitted(Scores(confidence, label), truth, limit=0.0)
    assert point.exit_shares == (0.5, 0.5)


@given(share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_samples_without_a_confidence_go_on_and_do_not_disturb_the_others(share: float, seed: int) -> None:
    scores, truth = random_scores(2, 60, seed)
    missing = np.random.default_rng(seed).random(60) < share
    scores.label[0] = np.where(missing, (truth + 1) % CLASSES, truth)  # right wherever it has a confidence
    scores.label[1] = truth
    scores.confidence[0, missing] = np.nan
    _, point = fitted(scores, truth, limit=0.0)
    assert point.exit_shares[0] == pytest.approx(1 - missing.mean())
    assert point.accuracy == 1


def test_without_samples_there_is_nothing_to_fit() -> None:
    nothing = Scores(np.zeros((2, 0), dtype=np.float32), np.zeros((2, 0), dtype=np.int32))
    with pytest.raises(ThresholdError, match="no samples to fit thresholds to; record scores"):
        fit_thresholds(nothing, np.zeros(0, dtype=np.int64), costs(2), RiskGuarantee(limit=0.01), split="")


@pytest.mark.parametrize(("exits", "samples"), [(3, 20), (2, 19)])
def test_scores_of_another_network_or_other_samples_are_refused(exits: int, samples: int) -> None:
    scores, _ = random_scores(exits, samples, seed=0)
    with pytest.raises(ThresholdError, match="2 exits and 20 labels"):
        fit_thresholds(scores, np.zeros(20, dtype=np.int64), costs(2), RiskGuarantee(limit=0.01), split="")


@settings(max_examples=50)
@given(exits=st.sampled_from([2, 3, 5]), seed=st.integers(0, 2**32 - 1))
def test_operating_points_go_from_no_early_exits_to_all_at_the_first(exits: int, seed: int) -> None:
    scores, truth = random_scores(exits, 40, seed)
    points = operating_points(scores, truth, costs(exits))
    never, always = (0.0,) * (exits - 1) + (1.0,), (1.0,) + (0.0,) * (exits - 1)
    shares = [point.exit_shares for point in points]
    assert shares[0] == never
    assert always in shares
    assert len({point.thresholds for point in points}) == len(points)
    for point in points:
        assert point == describe(scores, truth, costs(exits), np.array(point.thresholds, dtype=np.float32))


@pytest.mark.parametrize("exits", [2, 3, 5])
def test_no_operating_point_is_clearly_worse_than_another_in_both_accuracy_and_computation(exits: int) -> None:
    """Except the first, without early exits, which is always among them."""
    scores, truth = random_scores(exits, 200, seed=3)
    points = operating_points(scores, truth, costs(exits))[1:]
    for one, other in itertools.permutations(points, 2):
        assert not (other.accuracy > one.accuracy + 1 / 200 and other.cost_ratio < one.cost_ratio - 0.02)


def test_what_a_point_does_is_described_by_hand_counted_numbers() -> None:
    scores = Scores(
        np.array([[0.9, 0.4, 0.6, np.nan], [0.8, 0.8, 0.8, 0.8]], dtype=np.float32),
        np.array([[1, 1, 2, 3], [1, 2, 1, 3]], dtype=np.int32),
    )
    point = describe(scores, np.array([1, 2, 1, 3]), [1, 3], np.array([0.6], dtype=np.float32))
    assert point == OperatingPoint(
        thresholds=(float(np.float32(0.6)),),
        accuracy=0.75,
        accuracy_gap=0.25,
        cost_ratio=(2 * 0.25 + 2 * 1) / 4,
        exit_shares=(0.5, 0.5),
    )


def test_with_confidence_the_cheapest_point_before_the_first_that_is_not_vouched_for_is_taken() -> None:
    scores, truth = random_scores(3, 2000, seed=5)
    guarantee = RiskGuarantee(limit=0.05, confidence_level=0.99, shared=True)
    found = fit_thresholds(scores, truth, costs(3), guarantee, split="s")
    assert (found.target_metric, found.method, found.confidence_level) == ("accuracy_gap", "betting", 0.99)
    points = [np.full(2, value, dtype=np.float32) for value in (NEVER, *SHARED_GRID)]
    within = list(itertools.takewhile(lambda point: certified(scores, truth, point, 0.05, 0.01), points))
    assert 1 < len(within) < len(points)
    described = [describe(scores, truth, costs(3), point) for point in within]
    assert found.values == min(described, key=lambda one: one.cost_ratio).thresholds


def certified(scores: Scores, truth: Labels, point: NDArray[np.float32], limit: float, delta: float) -> bool:
    order = np.random.default_rng(0).permutation(len(truth))
    label = decide(scores, point).label
    lost = np.subtract(scores.label[-1] == truth, label == truth, dtype=np.float64)
    return betting_test(lost[order], limit, delta)


@pytest.mark.parametrize("method", ["betting", "hoeffding-bentkus", "expectation"])
def test_what_is_promised_of_other_samples_saves_less_than_what_holds_for_these(method: Any) -> None:
    scores, truth = random_scores(3, 2000, seed=5)
    careful = fit_thresholds(scores, truth, costs(3), RiskGuarantee(limit=0.02, method=method), split="s")
    bold, bold_point = fitted(scores, truth, 0.02)
    assert bold.confidence_level is None
    assert careful.confidence_level == (None if method == "expectation" else 0.95)
    careful_point = describe(scores, truth, costs(3), np.array(careful.values, dtype=np.float32))
    assert bold_point.cost_ratio < careful_point.cost_ratio < 1


SIZES = {0: 30, 1: 10, 2: 3}
"""Samples of each class among the candidates."""
LABELS = np.concatenate([np.full(size, label) for label, size in SIZES.items()] + [np.full(50, 1)]).astype(np.int64)
CANDIDATES = np.arange(sum(SIZES.values()))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, [1, 1, 1]), (9, [3, 3, 3]), (23, [10, 10, 3]), (30, [17, 10, 3]), (43, [30, 10, 3]), (500, [30, 10, 3])],
)
def test_classes_take_turns_until_they_run_out(count: int, expected: list[int]) -> None:
    chosen = stratified(CANDIDATES, LABELS, count, seed=0)
    assert np.bincount(LABELS[chosen], minlength=3).tolist() == expected
    assert len(set(chosen.tolist())) == len(chosen)
    assert set(chosen.tolist()) <= set(CANDIDATES.tolist())


def test_the_choice_within_a_class_depends_on_the_seed_only() -> None:
    first, again, other = (stratified(CANDIDATES, LABELS, 9, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("candidates", [0, 1, FEWEST - 1])
def test_too_few_images_to_measure_ranges_on_are_refused(candidates: int) -> None:
    with pytest.raises(DataError, match=f"needs at least 32 images, the split has {candidates}; bring more"):
        stratified(CANDIDATES[:candidates], LABELS, candidates, seed=0)


def test_32_images_are_enough() -> None:
    assert len(stratified(CANDIDATES[:FEWEST], LABELS, 500, seed=0)) == FEWEST == 32


# Several precisions of one network


def shaken(scores: Scores, by: float, seed: int) -> Scores:
    """Return the same scores, a little off, as another precision gives them."""
    noise = np.random.default_rng(seed).normal(0, by, scores.confidence.shape)
    return Scores((scores.confidence + noise).astype(np.float32), scores.label)


@pytest.mark.parametrize("method", ["betting", "expectation", "none"])
@pytest.mark.parametrize("shared", [False, True])
def test_precisions_are_fitted_to_one_point_each_with_its_own_thresholds(method: Any, shared: bool) -> None:
    scores, truth = random_scores(3, 2000, seed=3)
    precisions = {"fp32": scores, "int8": shaken(scores, 0.01, seed=1), "fp16": shaken(scores, 1e-4, seed=2)}
    guarantee = RiskGuarantee("disagreement", 0.2, method, 0.9, shared)
    found = fit_all_precisions(precisions, truth, costs(3), guarantee, "s")
    assert list(found) == list(precisions)
    left = {
        name: np.bincount(decide(precisions[name], np.array(one.values, np.float32)).exit_index, minlength=3)
        for name, one in found.items()
    }
    assert 0 < left["fp32"][2] < 2000
    for name, counts in left.items():
        assert np.abs(counts - left["fp32"]).max() <= 0.02 * 2000, name
    assert (found["int8"].values == found["fp32"].values) == shared


def test_fitting_one_precision_is_fitting_thresholds() -> None:
    scores, truth = random_scores(3, 1000, seed=3)
    guarantee = RiskGuarantee("disagreement", 0.2, "betting", 0.9)
    alone = fit_all_precisions({"int8": scores}, truth, costs(3), guarantee, "s")
    assert alone == {"int8": fit_thresholds(scores, truth, costs(3), guarantee, "s")}


def test_a_precision_that_keeps_less_of_the_promise_holds_the_others_back() -> None:
    scores, truth = random_scores(3, 2000, seed=3)
    worse = Scores(scores.confidence, scores.label.copy())
    worse.label[:2] = (worse.label[:2] + (np.random.default_rng(0).random((2, 2000)) < 0.3)) % 4
    guarantee = RiskGuarantee("disagreement", 0.25, "betting", 0.9, shared=True)
    both = fit_all_precisions({"fp32": scores, "int8": worse}, truth, costs(3), guarantee, "s")
    alone = {
        name: fit_thresholds(one, truth, costs(3), guarantee, "s") for name, one in (("fp32", scores), ("int8", worse))
    }
    assert alone["fp32"].values < alone["int8"].values
    assert both["fp32"].values == both["int8"].values == alone["int8"].values


def test_a_threshold_between_samples_lets_exactly_so_many_pass() -> None:
    first, _ = random_scores(2, 50, seed=1)
    other = Scores(np.sqrt(first.confidence), first.label)
    path = [np.array([value], dtype=np.float32) for value in (NEVER, 0.9, 0.6, 0.3, 0.0)]
    for point, followed in zip(path, _match_quantiles(path, first, other), strict=True):
        assert (other.confidence[0] >= followed).sum() == (first.confidence[0] >= point).sum()
