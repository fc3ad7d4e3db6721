"""Fitted thresholds stay within their limit and save nearly as much as any thresholds within it."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.budget import fit_to_macs, fit_to_ms
from calibration.operating_points import OperatingPoint, operating_point_of, operating_points
from calibration.samples import MIN_SAMPLES, stratified
from calibration.sequences import SHARED_GRID
from calibration.thresholds import (
    RiskGuarantee,
    check_guarantee,
    fit_all_precisions,
    fit_thresholds,
    match_quantiles,
    samples_needed,
)
from edge.bundle.manifest import Thresholds
from edge.decision import NEVER, Scores, decide, validate_thresholds
from edge.errors import DataError, ThresholdError
from edge.risk import exact_test
from tests.support.scores import (
    CLASSES,
    Labels,
    correct_labels,
    distinct_thresholds,
    random_scores,
    segment_costs,
)


def fitted(scores: Scores, truth: Labels, limit: float) -> tuple[Thresholds, OperatingPoint]:
    """Return fitted thresholds, and their operating point on the same scores."""
    macs = segment_costs(len(scores.label))
    thresholds = fit_thresholds(scores, truth, macs, RiskGuarantee(limit=limit, method="none"), split="these")
    return thresholds, operating_point_of(scores, truth, macs, validate_thresholds(thresholds.values, exits=len(macs)))


@given(
    exits=st.sampled_from([2, 3, 5]),
    samples=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    levels=st.sampled_from([None, 1, 4]),
    limit=st.sampled_from([0.0, 0.003, 0.02, 0.1, 0.5]),
)
@settings(deadline=None)
def test_the_accuracy_gap_never_exceeds_the_limit(
    exits: int, samples: int, seed: int, levels: int | None, limit: float
) -> None:
    scores, truth = random_scores(exits, samples, seed, levels)
    thresholds, point = fitted(scores, truth, limit)
    last_accuracy = float((scores.label[-1] == truth).mean())
    assert point.accuracy >= last_accuracy - limit - 1e-9
    assert point.accuracy_gap == pytest.approx(last_accuracy - point.accuracy)
    assert point.cost_ratio <= 1
    assert sum(point.exit_shares) == pytest.approx(1)
    assert (thresholds.limit, thresholds.samples, thresholds.split) == (limit, samples, "these")


@settings(max_examples=25, deadline=None)
@given(exits=st.sampled_from([2, 3, 5]), seed=st.integers(0, 2**32 - 1))
def test_a_higher_limit_never_costs_more_computation(exits: int, seed: int) -> None:
    scores, truth = random_scores(exits, 50, seed)
    ratios = [fitted(scores, truth, limit)[1].cost_ratio for limit in (0.0, 0.01, 0.05, 0.2, 0.99)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] < 1


@pytest.mark.parametrize("limit", [0.0, 0.01])
@pytest.mark.parametrize("perfect", [0, 1, 2])
def test_an_exit_that_is_always_right_is_always_taken(perfect: int, limit: float) -> None:
    scores, truth = random_scores(4, 80, seed=0)
    scores.label[perfect:] = truth
    scores.label[:perfect] = (truth + 1) % CLASSES  # the exits before it are always wrong
    _, point = fitted(scores, truth, limit)
    expected = [0.0] * 4
    expected[perfect] = 1.0
    assert list(point.exit_shares) == expected
    assert point.accuracy == 1


def test_an_exit_that_is_always_wrong_costs_no_accuracy() -> None:
    """It is taken at most for samples that the last exit gets wrong too."""
    scores, truth = random_scores(2, 80, seed=0)
    scores.label[0] = (truth + 1) % CLASSES
    _, point = fitted(scores, truth, limit=0.0)
    assert point.accuracy == (scores.label[1] == truth).mean()


def test_a_network_with_one_exit_has_no_thresholds() -> None:
    thresholds, point = fitted(*random_scores(1, 40, seed=0), limit=0.0)
    assert thresholds.values == ()
    assert (point.cost_ratio, point.exit_shares) == (1, (1.0,))


def lowest_cost_ratio(scores: Scores, truth: Labels, limit: float) -> float:
    """Return the lowest cost ratio within the limit, by exhaustive search."""
    points = (
        operating_point_of(scores, truth, segment_costs(len(scores.label)), np.array(thresholds, dtype=np.float32))
        for thresholds in itertools.product(*map(distinct_thresholds, scores.confidence[:-1]))
    )
    return min(point.cost_ratio for point in points if point.accuracy_gap <= limit + 1e-12)


@pytest.mark.parametrize("limit", [0.0, 0.01, 0.05])
def test_exhaustive_search_saves_little_more(limit: float) -> None:
    """Only trade-offs on the convex hull are candidates, which costs up to 10 % here, 3 % on average."""
    excess = []
    for seed in range(8):
        scores, truth = random_scores(3, 200, seed, levels=32)
        excess.append(fitted(scores, truth, limit)[1].cost_ratio - lowest_cost_ratio(scores, truth, limit))
    assert min(excess) > -1e-9
    assert max(excess) <= 0.1
    assert sum(excess) / len(excess) <= 0.03


def test_with_one_early_exit_the_whole_convex_hull_is_covered() -> None:
    scores, truth = random_scores(2, 200, seed=1)
    points = operating_points(scores, truth, segment_costs(2))
    possible = [
        operating_point_of(scores, truth, segment_costs(2), np.array([threshold], np.float32))
        for threshold in distinct_thresholds(scores.confidence[0])
    ]
    for weight in np.geomspace(0.01, 1, 20):

        def utility(point: OperatingPoint, weight: float = weight) -> float:
            return point.accuracy - weight * point.cost_ratio

        assert max(map(utility, points)) >= max(map(utility, possible)) - 0.002


@pytest.mark.parametrize(
    ("right", "share"),
    [
        pytest.param(20, 1.0, id="all right: all exit"),
        pytest.param(15, 0.0, id="some wrong: none exits"),
    ],
)
def test_samples_with_equal_confidence_exit_together_or_not_at_all(right: int, share: float) -> None:
    label, truth = correct_labels(2, 20)
    label[0, right:] = 0
    confidence = np.full((2, 20), 0.7, dtype=np.float32)
    _, point = fitted(Scores(confidence, label), truth, limit=0.1)
    assert point.exit_shares[0] == share


def test_ties_below_the_best_threshold_do_not_affect_it() -> None:
    label, truth = correct_labels(2, 20)
    confidence = np.repeat(np.array([[0.9, 0.8], [1.0, 1.0]], dtype=np.float32), 10, axis=1)
    label[0, 15:] = 0  # of the ten samples at 0.8, the right ones come first
    thresholds, point = fitted(Scores(confidence, label), truth, limit=0.0)
    assert point.exit_shares == (0.5, 0.5)
    assert 0.8 < thresholds.values[0] <= 0.9


def test_an_exit_is_fitted_to_the_samples_that_reach_it() -> None:
    label, truth = correct_labels(3, 50)
    confidence = np.full((3, 50), 0.5, dtype=np.float32)
    easy, middling, hard = slice(0, 30), slice(30, 40), slice(40, 50)
    confidence[0, easy], label[0, middling], label[0, hard] = 0.9, 0, 0
    confidence[1, easy], label[1, easy] = 0.8, 0  # exit 1 is confident and wrong, but only for samples that took exit 0
    confidence[1, hard], label[1, 47:] = 0.3, 0
    _, point = fitted(Scores(confidence, label), truth, limit=0.0)
    assert point.exit_shares == (0.6, 0.2, 0.2)
    assert point.accuracy == 1


@pytest.mark.parametrize("higher", [0.99999994, 0.9999999])
def test_a_threshold_separates_adjacent_float32_confidences(higher: float) -> None:
    label, truth = correct_labels(2, 10)
    label[0, 5:] = 0
    confidence = np.ones((2, 10), dtype=np.float32)
    confidence[0, :5], confidence[0, 5:] = higher, np.nextafter(np.float32(higher), np.float32(0))
    _, point = fitted(Scores(confidence, label), truth, limit=0.0)
    assert point.exit_shares == (0.5, 0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 2.0])
@pytest.mark.parametrize("exit_index", [0, 1])
def test_a_confidence_that_no_softmax_has_is_refused_with_the_number_of_samples(exit_index: int, value: float) -> None:
    scores, truth = random_scores(2, 60, seed=0)
    scores.confidence[exit_index, [7, 11]] = value
    message = (
        f"2 of 60 samples have invalid confidences, the first of them {value} at exit {exit_index}: .*; use another"
    )
    for fit in (
        lambda: fit_thresholds(scores, truth, segment_costs(2), RiskGuarantee(limit=0.01), split=""),
        lambda: fit_to_macs(scores, truth, segment_costs(2), 0.9, split=""),
        lambda: fit_to_ms(scores, truth, segment_costs(2), segment_costs(2), 6.0, split=""),
    ):
        with pytest.raises(ThresholdError, match=message):
            fit()


def test_fitting_without_samples_is_refused() -> None:
    empty = Scores(np.zeros((2, 0), dtype=np.float32), np.zeros((2, 0), dtype=np.int32))
    with pytest.raises(ThresholdError, match="no samples to fit thresholds to; record scores"):
        fit_thresholds(empty, np.zeros(0, dtype=np.int64), segment_costs(2), RiskGuarantee(limit=0.01), split="")


@pytest.mark.parametrize(("exits", "samples"), [(3, 20), (2, 19)])
def test_scores_with_other_exits_or_samples_are_refused(exits: int, samples: int) -> None:
    scores, _ = random_scores(exits, samples, seed=0)
    with pytest.raises(ThresholdError, match="2 exits and 20 labels"):
        fit_thresholds(scores, np.zeros(20, dtype=np.int64), segment_costs(2), RiskGuarantee(limit=0.01), split="")


@settings(max_examples=50, deadline=None)
@given(exits=st.sampled_from([2, 3, 5]), seed=st.integers(0, 2**32 - 1))
def test_operating_points_span_from_no_early_exit_to_always_the_first(exits: int, seed: int) -> None:
    scores, truth = random_scores(exits, 40, seed)
    points = operating_points(scores, truth, segment_costs(exits))
    never, always = (0.0,) * (exits - 1) + (1.0,), (1.0,) + (0.0,) * (exits - 1)
    shares = [point.exit_shares for point in points]
    assert shares[0] == never
    assert always in shares
    assert len({point.thresholds for point in points}) == len(points)
    for point in points:
        assert point == operating_point_of(
            scores, truth, segment_costs(exits), np.array(point.thresholds, dtype=np.float32)
        )


@pytest.mark.parametrize("exits", [2, 3, 5])
def test_no_operating_point_is_clearly_dominated(exits: int) -> None:
    """Except the first one, without early exits, which is always included."""
    scores, truth = random_scores(exits, 200, seed=3)
    points = operating_points(scores, truth, segment_costs(exits))[1:]
    for point, other in itertools.permutations(points, 2):
        assert not (other.accuracy > point.accuracy + 1 / 200 and other.cost_ratio < point.cost_ratio - 0.02)


def test_an_operating_point_equals_a_hand_calculation() -> None:
    scores = Scores(
        np.array([[0.9, 0.4, 0.6, np.nan], [0.8, 0.8, 0.8, 0.8]], dtype=np.float32),
        np.array([[1, 1, 2, 3], [1, 2, 1, 3]], dtype=np.int32),
    )
    point = operating_point_of(scores, np.array([1, 2, 1, 3]), [1, 3], np.array([0.6], dtype=np.float32))
    assert point == OperatingPoint(
        thresholds=(float(np.float32(0.6)),),
        accuracy=0.75,
        accuracy_gap=0.25,
        cost_ratio=(2 * 0.25 + 2 * 1) / 4,
        exit_shares=(0.5, 0.5),
    )


def test_the_cheapest_candidate_before_the_first_failed_test_is_chosen() -> None:
    scores, truth = random_scores(3, 2000, seed=5)
    guarantee = RiskGuarantee(limit=0.05, confidence_level=0.99, shared=True)
    fitted = fit_thresholds(scores, truth, segment_costs(3), guarantee, split="s")
    assert (fitted.target_metric, fitted.method, fitted.confidence_level) == ("accuracy_gap", "exact", 0.99)
    candidates = [np.full(2, value, dtype=np.float32) for value in (NEVER, *SHARED_GRID)]
    certified = list(itertools.takewhile(lambda thresholds: passes(scores, truth, thresholds, 0.05, 0.01), candidates))
    assert 1 < len(certified) < len(candidates)
    points = [operating_point_of(scores, truth, segment_costs(3), thresholds) for thresholds in certified]
    assert fitted.values == min(points, key=lambda point: point.cost_ratio).thresholds


def passes(scores: Scores, truth: Labels, thresholds: NDArray[np.float32], limit: float, delta: float) -> bool:
    """Test one candidate on the samples in the order that fitting shuffles them to."""
    order = np.random.default_rng(0).permutation(len(truth))
    label = decide(scores, thresholds).label
    lost = np.subtract(scores.label[-1] == truth, label == truth, dtype=np.float64)
    return exact_test(lost[order], limit, delta)


@pytest.mark.parametrize("method", ["exact", "betting", "hoeffding-bentkus", "expectation"])
def test_a_guarantee_for_other_samples_saves_less_than_an_empirical_fit(method: Any) -> None:
    scores, truth = random_scores(3, 2000, seed=5)
    certified = fit_thresholds(scores, truth, segment_costs(3), RiskGuarantee(limit=0.02, method=method), split="s")
    empirical, empirical_point = fitted(scores, truth, 0.02)
    assert empirical.confidence_level is None
    assert certified.confidence_level == (None if method == "expectation" else 0.95)
    certified_point = operating_point_of(scores, truth, segment_costs(3), np.array(certified.values, dtype=np.float32))
    assert empirical_point.cost_ratio < certified_point.cost_ratio < 1


SIZES = {0: 30, 1: 10, 2: 3}
"""Number of candidates of each class."""
LABELS = np.concatenate([np.full(size, label) for label, size in SIZES.items()] + [np.full(50, 1)]).astype(np.int64)
CANDIDATES = np.arange(sum(SIZES.values()))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, [1, 1, 1]), (9, [3, 3, 3]), (23, [10, 10, 3]), (30, [17, 10, 3]), (43, [30, 10, 3]), (500, [30, 10, 3])],
)
def test_samples_are_drawn_from_the_classes_in_turn(count: int, expected: list[int]) -> None:
    chosen = stratified(CANDIDATES, LABELS, count, seed=0)
    assert np.bincount(LABELS[chosen], minlength=3).tolist() == expected
    assert len(set(chosen.tolist())) == len(chosen)
    assert set(chosen.tolist()) <= set(CANDIDATES.tolist())


def test_the_choice_within_a_class_depends_only_on_the_seed() -> None:
    first, again, other = (stratified(CANDIDATES, LABELS, 9, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("candidates", [0, 1, MIN_SAMPLES - 1])
def test_too_few_calibration_images_are_refused(candidates: int) -> None:
    with pytest.raises(
        DataError, match=f"needs at least 32 images, and the split has {candidates} of .*--precision fp32"
    ):
        stratified(CANDIDATES[:candidates], LABELS, candidates, seed=0)


def test_32_images_are_enough() -> None:
    assert len(stratified(CANDIDATES[:MIN_SAMPLES], LABELS, 500, seed=0)) == MIN_SAMPLES == 32


# Several precisions of one network


def perturbed(scores: Scores, std: float, seed: int) -> Scores:
    """Return scores with noise on the confidences, as another precision computes them."""
    noise = np.random.default_rng(seed).normal(0, std, scores.confidence.shape)
    return Scores((scores.confidence + noise).astype(np.float32), scores.label)


@pytest.mark.parametrize("method", ["betting", "expectation", "none"])
@pytest.mark.parametrize("shared", [False, True])
def test_precisions_share_an_operating_point_with_thresholds_of_their_own(method: Any, shared: bool) -> None:
    scores, truth = random_scores(3, 2000, seed=3)
    precisions = {"fp32": scores, "int8": perturbed(scores, 0.01, seed=1), "fp16": perturbed(scores, 1e-4, seed=2)}
    guarantee = RiskGuarantee("disagreement", 0.2, method, 0.9, shared)
    fitted = fit_all_precisions(precisions, truth, segment_costs(3), guarantee, "s")
    assert list(fitted) == list(precisions)
    exit_counts = {
        name: np.bincount(decide(precisions[name], np.array(thresholds.values, np.float32)).exit_index, minlength=3)
        for name, thresholds in fitted.items()
    }
    assert 0 < exit_counts["fp32"][2] < 2000
    for name, counts in exit_counts.items():
        assert np.abs(counts - exit_counts["fp32"]).max() <= 0.02 * 2000, name
    assert (fitted["int8"].values == fitted["fp32"].values) == shared


def test_few_tuning_samples_give_precisions_nearly_equal_thresholds() -> None:
    """Also where all or none of the tuning samples reach a threshold, so that quantiles of theirs tell nothing."""
    scores, truth = random_scores(3, 269, seed=3)
    precisions = {"fp32": scores, "int8": perturbed(scores, 0.005, seed=1)}
    fitted = fit_all_precisions(
        precisions, truth, segment_costs(3), RiskGuarantee(limit=0.05, method="expectation"), "s"
    )
    for candidate, other in zip(fitted["fp32"].candidates, fitted["int8"].candidates, strict=True):
        np.testing.assert_allclose(candidate.values, other.values, atol=0.02)


def test_fitting_a_single_precision_equals_fit_thresholds() -> None:
    scores, truth = random_scores(3, 1000, seed=3)
    guarantee = RiskGuarantee("disagreement", 0.2, "betting", 0.9)
    alone = fit_all_precisions({"int8": scores}, truth, segment_costs(3), guarantee, "s")
    assert alone == {"int8": fit_thresholds(scores, truth, segment_costs(3), guarantee, "s")}


def test_the_riskiest_precision_limits_the_others() -> None:
    scores, truth = random_scores(3, 2000, seed=3)
    worse = Scores(scores.confidence, scores.label.copy())
    worse.label[:2] = (worse.label[:2] + (np.random.default_rng(0).random((2, 2000)) < 0.3)) % 4
    guarantee = RiskGuarantee("disagreement", 0.25, "betting", 0.9, shared=True)
    both = fit_all_precisions({"fp32": scores, "int8": worse}, truth, segment_costs(3), guarantee, "s")
    alone = {
        name: fit_thresholds(precision_scores, truth, segment_costs(3), guarantee, "s")
        for name, precision_scores in (("fp32", scores), ("int8", worse))
    }
    assert alone["fp32"].values < alone["int8"].values
    assert both["fp32"].values == both["int8"].values == alone["int8"].values


def test_matched_thresholds_are_reached_by_as_many_samples() -> None:
    tuned, _ = random_scores(2, 50, seed=1)
    other = Scores(np.sqrt(tuned.confidence), tuned.label)
    candidates = np.array([[NEVER], [0.9], [0.6], [0.3], [0.0]], dtype=np.float32)
    for thresholds, matched in zip(candidates, match_quantiles(candidates, tuned, other), strict=True):
        assert (other.confidence[0] >= matched).sum() == (tuned.confidence[0] >= thresholds).sum()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("method", ["exact", "betting", "hoeffding-bentkus", "expectation", "none"])
def test_samples_are_too_few_for_any_scores_or_for_none(method: Any, shared: bool) -> None:
    """Exits that are never taken cost nothing, so thresholds for enough samples exist even where every exit differs."""
    guarantee = RiskGuarantee(limit=0.05, method=method, shared=shared)
    needed = samples_needed(guarantee)
    assert needed is not None
    for samples in {1, needed - 1, needed, needed + 1, 300} - {0}:
        truth = np.zeros(samples, dtype=np.int64)
        scores = Scores(np.full((2, samples), 0.9, np.float32), np.stack([truth + 1, truth]).astype(np.int32))
        if samples >= needed:
            check_guarantee(guarantee, samples, exits=2)
            assert fit_thresholds(scores, truth, [1, 1], guarantee, "s").values[0] > 1
        else:
            with pytest.raises(ThresholdError, match="too few"):
                check_guarantee(guarantee, samples, exits=2)
    check_guarantee(guarantee, 0, exits=1)
