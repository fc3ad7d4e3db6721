"""Comparison of an engine's outputs with its reference: figures, tolerances, and the exit that is named."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from compile.precisions import PRECISIONS
from edge.bundle.bundle import Reference
from edge.decision import Scores
from edge.inference.record import Recording
from edge.parity.compare import REFERENCE, TOLERANCES, Comparison, Outputs, Parity, compare, comparisons


def two_exit_reference(samples: int = 1000, seed: int = 0) -> Reference:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, samples)
    logits = generator.normal(size=(2, samples, 4)).astype(np.float32)
    logits[:, np.arange(samples), labels] += 2
    return Reference(np.zeros((samples, 1, 1, 1), np.float32), labels, logits)


def compare_logits(logits: np.ndarray, reference: Reference) -> Parity:
    """Compare logits with a reference, both decided with the same threshold."""
    expected = Outputs.from_logits(REFERENCE, reference.logits)
    return compare("fp32", Outputs.from_logits("any", logits), expected, reference.labels, [0.6])


def messages(parity: Parity) -> list[str]:
    return [str(failure) for failure in parity.failures]


def test_every_precision_has_tolerances() -> None:
    assert set(TOLERANCES) == set(PRECISIONS)


def test_equal_outputs_pass_with_every_figure_at_its_best() -> None:
    reference = two_exit_reference()
    parity = compare_logits(reference.logits, reference)
    assert parity.passed
    assert parity.first_diverging is None
    for exit_ in parity.exits:
        assert (exit_.top1_agreement, exit_.exit_index_agreement, exit_.max_abs_logit_error) == (1, 1, 0)
    assert sum(exit_.exit_share for exit_ in parity.exits) == pytest.approx(1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda logits: logits + 0.01, "largest logit error is 0.01"),
        (lambda logits: np.roll(logits, 1, axis=-1), "top-1 agreement is 0"),
        (lambda logits: logits * 0.1, "exit 0: exit share drift"),
        (
            lambda logits: np.where(np.arange(logits.shape[1])[:, None] % 50 == 0, np.nan, logits),
            "largest logit error is inf",
        ),
    ],
)
def test_each_kind_of_deviation_is_named(damage: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    reference = two_exit_reference()
    parity = compare_logits(damage(reference.logits).astype(np.float32), reference)
    assert not parity.passed
    assert any(message in failure for failure in messages(parity)), messages(parity)


def test_a_failure_has_its_exit_figure_value_and_bound() -> None:
    reference = two_exit_reference()
    logits = reference.logits.copy()
    logits[1, 3, 0] += 0.25
    [failure] = compare_logits(logits, reference).failures
    assert (failure.exit_index, failure.figure, failure.relation) == (1, "largest logit error", "<=")
    assert (failure.value, failure.bound) == (pytest.approx(0.25), TOLERANCES["fp32"].max_abs_logit_error)
    assert str(failure) == "exit 1: largest logit error is 0.25, must be <= 0.001"


@pytest.mark.parametrize(
    ("value", "relation", "bound", "passed"),
    [
        (0.1 + 0.2, "<=", 0.3, True),  # 0.30000000000000004
        (0.31, "<=", 0.3, False),
        (1 - 0.9, ">=", 0.1, True),  # 0.09999999999999998
        (0.09, ">=", 0.1, False),
        (float("nan"), "<=", 0.3, False),
        (float("nan"), ">=", 0.3, False),
    ],
)
def test_a_value_within_rounding_of_its_bound_passes(value: float, relation: str, bound: float, passed: bool) -> None:
    assert Comparison(None, "figure", value, relation, bound).passed is passed  # type: ignore[arg-type]


def test_deviations_of_the_last_exit_are_not_attributed_to_the_first() -> None:
    reference = two_exit_reference()
    logits = reference.logits.copy()
    logits[1] += 1
    parity = compare_logits(logits, reference)
    assert {failure.exit_index for failure in parity.failures} == {1}
    assert parity.first_diverging == 1


def test_nan_in_both_outputs_is_no_error_and_in_one_of_them_an_infinite_error() -> None:
    reference = two_exit_reference()
    logits = reference.logits.copy()
    reference.logits[0, :5] = (np.nan, np.inf, -np.inf, 0)
    parity = compare_logits(reference.logits.copy(), reference)
    assert parity.passed, messages(parity)
    assert parity.exits[0].max_abs_logit_error == parity.exits[0].mean_abs_logit_error == 0
    reference.logits[0, :5] = logits[0, :5]
    reference.logits[1, 7, 2] = np.nan
    assert [exit_.max_abs_logit_error for exit_ in compare_logits(logits, reference).exits] == [0, np.inf]


def test_where_only_the_agreement_over_all_exits_fails_the_worst_exit_is_named() -> None:
    reference = two_exit_reference()
    parity = compare_logits(reference.logits, reference)
    better, worse = (dataclasses.replace(parity.exits[0], exit_index_agreement=share) for share in (0.99, 0.98))
    failure = Comparison(None, "exit index agreement", 0.97, ">=", 0.999)
    for exits, expected in (((better, worse), 1), ((worse, better), 0)):
        assert dataclasses.replace(parity, exits=exits, failures=(failure,)).first_diverging == expected


@pytest.mark.parametrize(("offsets", "errors"), [((0.25, 0.0), [0.125, 0]), ((0.0, 0.5), [0, 0.25])])
def test_the_mean_logit_error_is_that_of_each_exit(offsets: tuple[float, float], errors: list[float]) -> None:
    reference = two_exit_reference()
    logits = reference.logits.copy()
    logits[:, ::2] += np.array(offsets, np.float32)[:, None, None]
    parity = compare_logits(logits, reference)
    assert [exit_.mean_abs_logit_error for exit_ in parity.exits] == pytest.approx(errors, rel=1e-4)


@pytest.mark.parametrize("exit_index", [0, 1])
def test_only_predictions_that_became_wrong_are_a_loss_of_accuracy(exit_index: int) -> None:
    reference = two_exit_reference()
    correct = reference.logits[exit_index].argmax(axis=-1) == reference.labels
    worse, better = (reference.logits.copy() for _ in range(2))
    for logits, samples in ((worse, np.flatnonzero(correct)[:10]), (better, np.flatnonzero(~correct)[:10])):
        wanted = reference.labels[samples] if logits is better else reference.labels[samples] - 1
        rows = logits[exit_index, samples]
        best = rows.argmax(axis=-1)
        logits[exit_index, samples, best] = rows[np.arange(10), wanted]
        logits[exit_index, samples, wanted] = rows.max(axis=-1)
    parity = compare_logits(worse, reference)
    loss = f"exit {exit_index}: accuracy loss is 0.01, must be <= 0.001"
    assert [message for message in messages(parity) if "accuracy" in message] == [loss]
    assert parity.exits[exit_index].reference_accuracy == pytest.approx(correct.mean())
    assert parity.exits[exit_index].accuracy == pytest.approx(correct.mean() - 0.01)
    assert not [message for message in messages(compare_logits(better, reference)) if "accuracy" in message]


def outputs_with_confidence(confidence: np.ndarray) -> Outputs:
    """Return outputs of two exits: the first with this confidence in each sample, all with the same label."""
    both = np.stack([confidence, np.ones_like(confidence)]).astype(np.float32)
    logits = np.zeros((*both.shape, 2), np.float32)
    return Outputs("any", Recording(logits, Scores(both, np.zeros(both.shape, np.int32))))


@pytest.mark.parametrize(("changed", "share"), [(slice(0, 30), 0.47), (slice(970, 1000), 0.53)])
def test_samples_that_cross_the_threshold_in_either_direction_are_different_decisions(
    changed: slice, share: float
) -> None:
    confidence = np.repeat(np.float32([0.9, 0.3]), 500)
    other = confidence.copy()
    other[changed] = np.float32(1.2) - other[changed]
    outputs, reference = outputs_with_confidence(other), outputs_with_confidence(confidence)
    parity = compare("fp32", outputs, reference, np.zeros(1000, np.int64), [0.6])
    assert parity.exit_index_agreement == pytest.approx(0.97)
    assert [exit_.exit_index_agreement for exit_ in parity.exits] == pytest.approx([0.97, 1])
    assert [exit_.exit_share for exit_ in parity.exits] == pytest.approx([share, 1 - share])
    assert {
        "exit index agreement is 0.97, must be >= 0.999",
        "exit 0: decision agreement is 0.97, must be >= 0.999",
        "exit 0: exit share drift is 0.03, must be <= 0.002",
    } <= set(messages(parity))


def test_a_confidence_equal_to_the_threshold_in_both_outputs_is_the_same_decision() -> None:
    outputs = outputs_with_confidence(np.float32([0.9, 0.6, 0.3]))
    parity = compare("fp32", outputs, outputs, np.zeros(3, np.int64), [0.6])
    assert parity.passed
    assert parity.exits[0].exit_share == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("backends", "pairs"),
    [
        (["a"], [("a", REFERENCE)]),
        (["a", "b"], [("a", REFERENCE), ("b", REFERENCE), ("b", "a")]),
        (["a", "b", "a", "c"], [("a", REFERENCE), ("b", REFERENCE), ("b", "a"), ("c", REFERENCE), ("c", "a")]),
    ],
)
def test_each_backend_is_compared_with_the_trained_network_and_later_ones_with_the_first(
    backends: list[str], pairs: list[tuple[str, str]]
) -> None:
    assert comparisons(backends) == pairs
