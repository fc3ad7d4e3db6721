"""States from flickering predictions."""

import pytest

from edge.live.events import Debouncer
from edge.live.messages import Event
from tests.support.observations import START, observation


def events(debouncer: Debouncer, labels: str, *, start_s: float = 0, **changes: float) -> list[Event]:
    """Return the events of predictions a second apart, one digit each."""
    return [
        event
        for second, label in enumerate(labels)
        for event in debouncer.add(observation(start_s + second, label, **changes))
    ]


def shown(given: list[Event]) -> list[tuple[str, str, float | None]]:
    return [(event.kind, event.label, event.duration_s) for event in given]


def test_a_state_begins_with_enough_agreeing_predictions() -> None:
    debouncer = Debouncer(3, 5)
    assert events(debouncer, "7171") == []
    [event] = debouncer.add(observation(4, "7"))
    assert event == Event("entered", "test://", observation(4).time, "7", 7, None)
    assert event.time > START


def test_flicker_changes_no_state() -> None:
    assert shown(events(Debouncer(3, 5), "777" + "17727" * 20)) == [("entered", "7", None)]


def test_a_change_leaves_one_state_and_enters_the_next_with_durations_between_decisions() -> None:
    given = events(Debouncer(2, 3), "7777711")
    assert shown(given) == [("entered", "7", None), ("left", "7", 5.0), ("entered", "1", None)]


def test_ignored_labels_are_no_state_but_end_one() -> None:
    debouncer = Debouncer(2, 3, ignore=["0", "9"])
    assert events(debouncer, "00000999") == []
    assert shown(events(debouncer, "7770", start_s=10)) == [("entered", "7", None)]
    assert shown(events(debouncer, "900", start_s=20)) == [("left", "7", 9.0)]


def test_improbable_predictions_are_of_no_state() -> None:
    debouncer = Debouncer(2, 3, min_probability=0.6)
    assert events(debouncer, "7777", probability=0.59) == []
    assert shown(events(debouncer, "77", start_s=10, probability=0.6)) == [("entered", "7", None)]
    assert shown(events(debouncer, "777", start_s=20, probability=0.3)) == [("left", "7", 10.0)]


def test_nan_is_of_no_state() -> None:
    assert events(Debouncer(1, 1), "777", probability=float("nan")) == []


def test_a_source_that_ends_leaves_its_state_at_its_last_frame() -> None:
    debouncer = Debouncer(1, 1)
    events(debouncer, "777777")
    assert shown(debouncer.end()) == [("left", "7", 5.0)]
    assert debouncer.end() == []


def test_without_a_state_nothing_is_left() -> None:
    assert Debouncer().end() == []


def test_durations_of_a_video_are_seconds_of_the_video() -> None:
    debouncer = Debouncer(1, 1)
    debouncer.add(observation(100.0, "7", position=2.0))
    assert shown(debouncer.add(observation(100.1, "1", position=14.5)))[0] == ("left", "7", 12.5)


def test_durations_do_not_follow_the_wall_clock() -> None:
    debouncer = Debouncer(1, 1)
    debouncer.add(observation(100, "7"))
    hour_back = observation(103, "1", time=START.replace(year=2020))
    left, entered = debouncer.add(hour_back)
    assert left.duration_s == 3.0
    assert left.time == entered.time == hour_back.time


@pytest.mark.parametrize(("k", "n"), [(0, 5), (2, 5), (2, 4), (6, 5), (1, 0)])
def test_numbers_that_cannot_decide_are_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="more than half"):
        Debouncer(k, n)


def test_a_video_whose_positions_fall_goes_on_from_there() -> None:
    debouncer, given = Debouncer(2, 3), []
    for position, label in zip([0.0, 1.0, 2.0, 0.0, 1.0, 2.0], "777711", strict=True):
        given += debouncer.add(observation(500, label, position=position))
    assert shown(given) == [("entered", "7", None), ("left", "7", 3.0), ("entered", "1", None)]
