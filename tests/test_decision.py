"""The exit rule behaves exactly as documented; it is the reference for every backend."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.decision import (
    MAX_PYTHON_CLASSES,
    NEVER,
    Scores,
    decide,
    scores_from_logits,
    softmax_maximum,
    validate_thresholds,
)
from edge.errors import ThresholdError

CONFIDENCES = st.one_of(
    st.sampled_from([0.0, -0.0, 0.25, 0.5, float(np.nextafter(np.float32(0.5), np.float32(1))), 1.0, math.nan]),
    st.floats(width=32, allow_nan=True),
)
"""A few fixed values, so that ties and thresholds equal to a confidence are common, and any other number."""
THRESHOLDS = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, NEVER]), st.floats(0, 10, width=32))
NUMBERS = st.floats(0, 1, width=32)


@st.composite
def scores_and_thresholds(draw: st.DrawFn) -> tuple[Scores, NDArray[np.float32]]:
    exits, samples = draw(st.integers(1, 5)), draw(st.integers(0, 8))
    drawn = draw(st.lists(CONFIDENCES, min_size=exits * samples, max_size=exits * samples))
    confidence = np.array(drawn, dtype=np.float32).reshape(exits, samples)
    thresholds = draw(st.lists(THRESHOLDS, min_size=exits - 1, max_size=exits - 1))
    return scores_of(confidence), np.array(thresholds, dtype=np.float32)


def scores_of(confidence: NDArray[np.float32]) -> Scores:
    """Return scores with a unique label for each exit and sample."""
    exits, samples = confidence.shape
    return Scores(confidence, np.arange(exits * samples, dtype=np.int32).reshape(exits, samples))


def first_confident_exit(confidences: Sequence[float], thresholds: Sequence[float]) -> int:
    """Apply the rule to one sample in plain Python."""
    for exit_index, threshold in enumerate(thresholds):
        if confidences[exit_index] >= threshold:
            return exit_index
    return len(thresholds)


@given(scores_and_thresholds())
@example((scores_of(np.array([[0.3], [0.9]], np.float32)), np.array([0.3], np.float32)))
def test_the_first_exit_that_reaches_its_threshold_answers(given: tuple[Scores, NDArray[np.float32]]) -> None:
    scores, thresholds = given
    decisions = decide(scores, thresholds)
    samples = scores.confidence.shape[1]
    expected = [first_confident_exit(scores.confidence[:, i].tolist(), thresholds.tolist()) for i in range(samples)]
    assert decisions.exit_index.tolist() == expected
    chosen = scores.confidence[expected, range(samples)]
    assert decisions.confidence.tobytes() == chosen.tobytes()
    assert decisions.label.tolist() == scores.label[expected, range(samples)].tolist()
    assert (decisions.confidence.dtype, decisions.label.dtype) == (np.float32, np.int32)


@given(st.lists(NUMBERS, min_size=1), st.integers(1, 4))
def test_a_threshold_of_0_always_exits(confidences: list[float], early: int) -> None:
    scores = scores_of(np.array([confidences] * (early + 1), dtype=np.float32))
    assert not decide(scores, np.zeros(early, dtype=np.float32)).exit_index.any()


@given(st.lists(NUMBERS, min_size=1), st.floats(1, 1024, exclude_min=True, width=32))
def test_a_threshold_above_1_never_exits(confidences: list[float], threshold: float) -> None:
    scores = scores_of(np.array([confidences, confidences], dtype=np.float32))
    assert (decide(scores, np.array([threshold], dtype=np.float32)).exit_index == 1).all()


@pytest.mark.parametrize("threshold", [0.0, 0.5, NEVER])
def test_nan_confidence_never_exits_early_and_is_returned_by_the_last_exit(threshold: float) -> None:
    scores = scores_of(np.full((3, 2), np.nan, dtype=np.float32))
    decisions = decide(scores, np.full(2, threshold, dtype=np.float32))
    assert decisions.exit_index.tolist() == [2, 2]
    assert np.isnan(decisions.confidence).all()
    assert decisions.label.tolist() == scores.label[2].tolist()


def test_the_comparison_with_the_threshold_is_exact_in_float32() -> None:
    threshold = np.float32(0.7)
    below, above = (np.nextafter(threshold, np.float32(end)) for end in (0, 1))
    scores = scores_of(np.array([[below, threshold, above], [1, 1, 1]], dtype=np.float32))
    assert decide(scores, np.array([threshold])).exit_index.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("values", "exits", "message"),
    [
        ([math.nan], 2, "threshold 0 is nan; give a confidence from 0 to 1, such as 0.9 for 90 %, or 2 to never exit"),
        ([1e300], 2, "threshold 0 is inf"),
        ([0.5, math.inf], 3, "threshold 1 is inf"),
        ([-math.inf], 2, "threshold 0 is -inf"),
        ([0.5, 0.5, -0.1], 4, "threshold 2 is -0.1"),
        ([0.5], 3, "got 1 thresholds for 3 exits; give 2"),
        ([0.5, 0.5, 0.5], 3, "got 3 thresholds for 3 exits; give 2"),
        ([0.5], 1, "got 1 thresholds for 1 exits; give 0"),
    ],
)
def test_an_invalid_threshold_is_refused_with_its_index_and_value(
    values: list[float], exits: int, message: str
) -> None:
    with pytest.raises(ThresholdError, match=message):
        validate_thresholds(values, exits)


def test_a_threshold_in_percent_never_exits_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert validate_thresholds([1.5, 90], 3).tolist() == [1.5, 90]
    assert [record.getMessage() for record in caplog.records] == [
        "threshold 1 is 90, so this exit never answers; for 90 %, give 0.9"
    ]


@given(st.lists(st.floats(0, NEVER), max_size=4))
def test_thresholds_are_rounded_to_the_nearest_float32(values: list[float]) -> None:
    thresholds = validate_thresholds(values, exits=len(values) + 1)
    assert thresholds.dtype == np.float32
    assert thresholds.tobytes() == np.array(values, dtype=np.float32).tobytes()


@given(st.integers(1, 3), st.integers(0, 6), st.integers(2, 12), st.floats(0.01, 40), st.integers(0, 2**32 - 1))
def test_confidence_and_label_agree_with_a_float64_softmax(
    exits: int, samples: int, classes: int, spread: float, seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(0, spread, (exits, samples, classes)).astype(np.float32)
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probability = exponentials / exponentials.sum(axis=-1, keepdims=True)
    scores = scores_from_logits(logits)
    np.testing.assert_allclose(scores.confidence, probability.max(axis=-1), rtol=2e-6)
    assert (scores.label == logits.argmax(axis=-1)).all()
    assert (scores.confidence.dtype, scores.label.dtype) == (np.float32, np.int32)


def test_large_logits_do_not_overflow_the_softmax() -> None:
    scores = scores_from_logits(np.array([[[1e4, 1e4 - 1, -1e4], [-1e38, -1e38, -1e38]]], dtype=np.float32))
    np.testing.assert_allclose(scores.confidence, [[1 / (1 + math.exp(-1)), 1 / 3]], rtol=1e-6)


def test_equal_logits_resolve_to_the_first_class() -> None:
    logits = np.array([[[1, 3, 3, 2], [0, 0, 0, 0], [-1, -2, -1, -1]]], dtype=np.float32)
    assert scores_from_logits(logits).label.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("position", range(3))
def test_a_nan_logit_makes_the_confidence_nan(position: int) -> None:
    logits = np.zeros((1, 2, 3), dtype=np.float32)
    logits[0, 0, position] = np.nan
    confidence = scores_from_logits(logits).confidence[0]
    assert math.isnan(confidence[0])
    assert confidence[1] == pytest.approx(1 / 3)


@pytest.mark.parametrize("classes", [2, MAX_PYTHON_CLASSES, MAX_PYTHON_CLASSES + 1])
@pytest.mark.parametrize("damage", [None, math.nan, math.inf, -math.inf])
def test_the_maximum_of_one_sample_is_that_of_the_reference(classes: int, damage: float | None) -> None:
    logits = np.random.default_rng(classes).normal(scale=5, size=classes).astype(np.float32)
    if damage is not None:
        logits[-1] = damage
    np.testing.assert_allclose(softmax_maximum(logits), scores_from_logits(logits[None]).confidence[0], rtol=1e-6)
    flat = scores_from_logits(logits[None] * np.float32(0.25)).confidence[0]
    np.testing.assert_allclose(softmax_maximum(logits, 0.25), flat, rtol=1e-6)


@pytest.mark.parametrize("classes", [MAX_PYTHON_CLASSES, MAX_PYTHON_CLASSES + 1])
def test_the_largest_and_smallest_logits_of_one_sample_warn_of_nothing(classes: int) -> None:
    logits = np.full(classes, np.finfo(np.float32).min)
    logits[-1] = np.finfo(np.float32).max
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert softmax_maximum(logits, 100.0) == 1
