"""Fixed sequences lead from the whole network to the first exit, and equalise the odds of disagreement."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.sequences import DISAGREEMENT_ODDS, matched_sequence, shared_sequence
from edge.decision import NEVER, Scores
from tests.support.scores import random_scores


@settings(max_examples=40, deadline=None)
@given(
    exits=st.sampled_from([2, 3, 5]),
    samples=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    levels=st.sampled_from([None, 1, 4]),
)
def test_thresholds_fall_from_never_to_always(exits: int, samples: int, seed: int, levels: int | None) -> None:
    scores, _ = random_scores(exits, samples, seed, levels)
    for sequence in (matched_sequence(scores), shared_sequence(exits - 1)):
        assert sequence.shape[1] == exits - 1
        assert sequence.dtype == np.float32
        assert np.isfinite(sequence).all()
        assert (sequence[0] == NEVER).all()
        assert (sequence[-1] == 0).all()
        assert (np.diff(sequence, axis=0) <= 0).all()


def test_samples_at_the_thresholds_of_all_exits_disagree_equally_often() -> None:
    """The odds of disagreement are those of the confidence at exit 0, and half of them at exit 1."""
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, (3, 100_000)).astype(np.float32)
    odds = (1 - confidence[:2]) / confidence[:2] / np.array([[1.0], [2.0]])
    label = np.zeros(confidence.shape, dtype=np.int32)
    label[:2] = generator.random(odds.shape) < odds / (1 + odds)
    target = int(np.abs(DISAGREEMENT_ODDS - 0.2).argmin())
    expected = 1 / (1 + DISAGREEMENT_ODDS[target] * np.array([1.0, 2.0]))
    np.testing.assert_allclose(matched_sequence(Scores(confidence, label))[target + 1], expected, atol=0.01)


def test_exits_with_equal_scores_get_equal_thresholds() -> None:
    scores, _ = random_scores(2, 50, seed=0)
    twice = Scores(scores.confidence[[0, 0, 1]], scores.label[[0, 0, 1]])
    first, second = matched_sequence(twice).T
    np.testing.assert_array_equal(first, second)
