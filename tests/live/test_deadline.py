"""Deadlines: cheaper candidates while frames are late, costlier ones after a long time in time, nothing between."""

from collections.abc import Iterator

import pytest

import edge
from edge.live.deadline import MAX_LATE, MIN_PATIENCE, WINDOW, Deadline
from edge.live.messages import CandidateChange
from tests.support.observations import observation

CANDIDATES = [(2.0, 2.0), (0.9, 0.8), (0.7, 0.6)]
DEADLINE_MS = 33.0
LATE_MS, TIGHT_MS, EARLY_MS = 34.0, 30.0, 5.0


@pytest.fixture
def own(classifier: edge.Classifier) -> Iterator[edge.Classifier]:
    with classifier.with_thresholds((0.5, 0.5)) as own:
        yield own


@pytest.fixture
def deadline(own: edge.Classifier) -> Deadline:
    return Deadline(own, CANDIDATES, DEADLINE_MS)


def changes(deadline: Deadline, classifier: edge.Classifier, latency_ms: float, frames: int) -> list[CandidateChange]:
    """Return the changes caused by frames that are classified with the thresholds in force."""
    made = [deadline.add(observation(0, latency_ms=latency_ms, thresholds=classifier.thresholds))
            for _ in range(frames)]  # fmt: skip
    return [change for change in made if change is not None]


def index_of(classifier: edge.Classifier) -> int:
    """Return the index of the candidate in force; thresholds between candidates are an error."""
    return [pytest.approx(values) for values in CANDIDATES].index(classifier.thresholds)


def test_it_begins_with_the_costliest_candidate(deadline: Deadline, own: edge.Classifier) -> None:
    assert index_of(own) == 0
    assert changes(deadline, own, EARLY_MS, 100 * WINDOW) == []


def test_late_frames_choose_cheaper_candidates_one_by_one(deadline: Deadline, own: edge.Classifier) -> None:
    for index in (1, 2):
        assert changes(deadline, own, LATE_MS, MAX_LATE) == []
        [change] = changes(deadline, own, LATE_MS, 1)
        assert (change.candidate_index, change.candidates, index_of(own)) == (index, 3, index)
        assert change.reason == "6 of 6 frames took longer than the deadline of 33 ms"


def test_a_candidate_that_somebody_else_chooses_is_judged_by_frames_of_its_own(
    deadline: Deadline, own: edge.Classifier
) -> None:
    assert changes(deadline, own, LATE_MS, MAX_LATE) == []
    own.thresholds = CANDIDATES[1]
    assert changes(deadline, own, LATE_MS, MAX_LATE) == []
    [change] = changes(deadline, own, LATE_MS, 1)
    assert change.candidate_index == 2


def test_as_many_late_frames_as_the_percentile_allows_change_nothing(deadline: Deadline, own: edge.Classifier) -> None:
    for _ in range(10):
        assert changes(deadline, own, LATE_MS, MAX_LATE) == []
        assert changes(deadline, own, EARLY_MS, WINDOW - MAX_LATE) == []


def test_a_lack_of_cheaper_candidates_is_reported_once_until_frames_are_in_time(own: edge.Classifier) -> None:
    deadline = Deadline(own, CANDIDATES[-1:], DEADLINE_MS)
    for _ in range(2):
        [change] = changes(deadline, own, LATE_MS, 10 * WINDOW)
        assert change.candidate_index == 0
        assert "no cheaper one is certified: late frames may be dropped" in change.reason
        assert changes(deadline, own, EARLY_MS, WINDOW) == []


def test_a_costlier_candidate_needs_headroom_for_long_and_longer_each_time(
    deadline: Deadline, own: edge.Classifier
) -> None:
    for patience in (MIN_PATIENCE, 2 * MIN_PATIENCE, 4 * MIN_PATIENCE):
        changes(deadline, own, LATE_MS, MAX_LATE + 1)
        assert index_of(own) == 1
        assert changes(deadline, own, TIGHT_MS, 50 * WINDOW) == []
        assert changes(deadline, own, EARLY_MS, patience * WINDOW - 1) == []
        [change] = changes(deadline, own, EARLY_MS, 1)
        assert (change.candidate_index, index_of(own)) == (0, 0)


def test_frames_in_flight_during_a_change_do_not_count_for_the_new_candidate(
    deadline: Deadline, own: edge.Classifier
) -> None:
    before = own.thresholds
    changes(deadline, own, LATE_MS, MAX_LATE + 1)
    for _ in range(10 * WINDOW):
        assert deadline.add(observation(0, latency_ms=LATE_MS, thresholds=before)) is None
    assert index_of(own) == 1


def test_thresholds_that_somebody_else_sets_are_left_alone(deadline: Deadline, own: edge.Classifier) -> None:
    own.thresholds = (0.3, 0.3)
    assert changes(deadline, own, LATE_MS, 10 * WINDOW) == []
    own.thresholds = CANDIDATES[1]
    [change] = changes(deadline, own, LATE_MS, MAX_LATE + 1)
    assert change.candidate_index == 2
