"""Classifiers that are replaced, on trial and rolled back while a pipeline runs, on the same stand-ins."""

import threading
from dataclasses import dataclass
from itertools import groupby
from time import sleep

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.frames.base import Frame, PixelFormat
from edge.inference.pipeline import Pipeline, Policy
from edge.inference.result import Result
from edge.inference.slot_pool import MIN_SLOTS, SlotPool
from edge.inference.stream import Stream
from tests.support.commands import TIMEOUT_S, wait_until
from tests.support.pipelines import (
    Hook,
    PacedSource,
    Source,
    StrictSlot,
    finish_in_time,
    group_of,
    indices,
    slots,
)


def answering(results: list[Result]) -> list[str]:
    """Return the classifiers that answered, in their order."""
    return [bundle for bundle, _ in groupby(result.bundle for result in results)]


@pytest.mark.parametrize("count", [MIN_SLOTS, MIN_SLOTS + 5])
def test_classifiers_that_are_replaced_again_and_again_answer_each_frame_once_and_are_closed(count: int) -> None:
    groups = [group_of(slots(count), str(index)) for index in range(10)]
    pool, source = SlotPool(groups[0]), Source(1500, before=lambda index: sleep(0.0001))

    def replace() -> None:
        for group in groups[1:]:
            sleep(0.005)
            pool.replace(group)
            pool.confirm()
            pool.close_retired()

    thread = threading.Thread(target=replace)
    thread.start()
    results = list(Pipeline(source, pool, "all"))
    thread.join()
    pool.confirm()
    pool.close_retired()
    assert indices(results) == list(range(1500))
    assert answering(results) == sorted(answering(results), key=int), "none answers again once it was replaced"
    assert len(answering(results)) > 5
    assert source.allocated <= 2 * count, "sources get their memory back"
    assert all(slot.closed for group in groups[:-2] for slot in group.slots)
    assert not any(slot.closed for slot in groups[-1].slots)


@pytest.mark.parametrize("policy", ["all", "latest"])
@pytest.mark.parametrize("stage", ["start", "result"])
def test_frames_at_which_a_classifier_on_trial_fails_are_answered_by_the_one_before(stage: str, policy: Policy) -> None:
    def fail(index: int) -> None:
        if index % 3 == 0:
            raise RuntimeError("new")

    pool = SlotPool(group_of(slots(), "old"))
    results: list[Result] = []

    def consume() -> None:
        for result in Pipeline(Source(200, before=lambda index: sleep(0.0005)), pool, policy):
            results.append(result)
            if len(results) == 20:
                pool.replace(group_of(slots(**{f"before_{stage}": fail}), "new"))
            if pool.failure is not None and len(results) == 60:
                pool.replace(group_of(slots(), "old again"))

    finish_in_time(consume)
    answered = indices(results)
    assert answered == (list(range(200)) if policy == "all" else sorted(set(answered)))
    on_trial = [result for result in results if result.bundle == "new"]
    assert on_trial
    assert all(result.frame_index % 3 for result in on_trial)
    assert answering(results[-1:]) == ["old again"]
    pool.confirm()
    assert pool.failure is None, "a frame that failed after its classifier was replaced is no failure of the next one"


class BufferedSlot(StrictSlot):
    """A slot that sources decode into; its memory is spoilt once it is closed."""

    def __init__(self, **hooks: Hook) -> None:
        super().__init__(**hooks)
        self.buffer = Frame(np.zeros((1, 1, 2), dtype=np.int64), PixelFormat.ARRAY)

    def close(self) -> None:
        super().close()
        assert self.buffer is not None
        self.buffer.pixels[:] = -1


@pytest.mark.parametrize("policy", ["all", "latest"])
@pytest.mark.parametrize("kind", [StrictSlot, BufferedSlot])
def test_a_frame_after_a_silence_is_answered_by_the_classifier_in_force(kind: type[StrictSlot], policy: Policy) -> None:
    def fail(index: int) -> None:
        raise RuntimeError("rolled back")

    groups = [group_of([kind() for _ in range(MIN_SLOTS)], str(index)) for index in range(6)]
    broken = group_of([kind(before_result=fail) for _ in range(MIN_SLOTS)], "broken")
    pool, source, results = SlotPool(groups[0]), PacedSource(), list[Result]()
    thread = threading.Thread(target=lambda: results.extend(Pipeline(source, pool, policy)))
    thread.start()
    source.give(1)
    wait_until(lambda: results, "the first result")
    for group in (*groups[1:5], broken, groups[5]):
        pool.replace(group)
        pool.confirm()
        pool.close_retired()
    pool.close_retired()
    opened = [slot for each in (*groups[:5], broken) for slot in each.slots if not slot.closed]
    assert len(opened) <= 2, "the slot of the read that waits, and the reserve"
    for given in (2, 3):
        source.give(1)
        wait_until(lambda: len(results) == given, "the next result")  # noqa: B023 - called at once
    source.end()
    thread.join(TIMEOUT_S)
    assert [result.bundle for result in results] == ["0", "5", "5"]
    assert indices(results) == [0, 1, 2]


def test_frames_in_flight_of_a_classifier_that_was_rolled_back_are_answered_however_late() -> None:
    def fail(index: int) -> None:
        failed.append(index)
        raise RuntimeError("new")

    pool, results, failed = SlotPool(group_of(slots(), "old")), list[Result](), list[int]()

    def consume() -> None:
        for result in Pipeline(Source(60), pool, "all"):
            results.append(result)
            if len(results) == 20:
                pool.replace(group_of(slots(before_result=fail), "new"))
                wait_until(lambda: pool.is_empty, "frames in all slots of the new classifier")
                pool.replace(group_of(slots(), "old again"))
                pool.confirm()
                pool.close_retired()
                pool.replace(group_of(slots(), "next"))
        assert pool.failure is None, "the next classifier is not to blame"

    finish_in_time(consume)
    assert len(failed) >= MIN_SLOTS - 1
    assert indices(results) == list(range(60))
    assert answering(results)[-1] == "next"


def test_slots_made_for_a_classifier_that_is_replaced_before_the_first_frame_are_closed() -> None:
    @dataclass
    class Named:
        name: str

        def new_slots(self) -> list[StrictSlot]:
            return slots()

        def next_thresholds(self) -> NDArray[np.float32]:
            return np.zeros(0, dtype=np.float32)

    made = slots()
    stream = Stream(Named("old"), Source(3), "all", "old", slots=made)
    stream.replace(Named("new"), "new")
    assert [result.bundle for result in stream] == ["new"] * 3
    assert all(slot.closed for slot in made)


def test_a_classifier_that_fails_after_its_trial_ends_the_stream() -> None:
    def fail(index: int) -> None:
        if index >= 100:
            raise RuntimeError("late")

    pool = SlotPool(group_of(slots(), "old"))
    results: list[Result] = []

    def consume() -> None:
        for result in Pipeline(Source(200), pool, "all"):
            results.append(result)
            if len(results) == 20:
                pool.replace(group_of(slots(before_result=fail), "new"))
            if len(results) == 60:
                pool.confirm()

    with pytest.raises(RuntimeError, match="late"):
        finish_in_time(consume)
    assert indices(results) == list(range(100))


def test_slots_that_cannot_be_prepared_are_closed_and_the_classifier_before_stays() -> None:
    class Unprepared(StrictSlot):
        def prepare(self, frame: Frame) -> None:
            raise RuntimeError("out of memory")

    pool, unprepared = SlotPool(group_of(slots(), "old")), [Unprepared() for _ in range(MIN_SLOTS)]
    results: list[Result] = []
    for result in Pipeline(Source(50), pool, "all"):
        results.append(result)
        if len(results) == 20:
            with pytest.raises(RuntimeError, match="out of memory"):
                pool.replace(group_of(unprepared, "new"))
    assert indices(results) == list(range(50))
    assert answering(results) == ["old"]
    assert all(slot.closed for slot in unprepared)


def test_the_bundle_accepted_last_answers_for_one_that_fails_after_a_silence() -> None:
    def fail(index: int) -> None:
        raise RuntimeError("bad node")

    pool, source = SlotPool(group_of(slots(), "first")), PacedSource()
    results: list[Result] = []
    consumer = threading.Thread(target=lambda: results.extend(Pipeline(source, pool, "all")))
    consumer.start()
    source.give(2)  # from now on, capture waits with a slot of the first bundle
    wait_until(lambda: len(results) == 2, "both results")
    for name in ("second", "third"):
        pool.replace(group_of(slots(), name))
        pool.confirm()
        pool.close_retired()
    pool.replace(group_of(slots(before_result=fail), "fourth"))
    source.give(1)
    source.end()
    consumer.join(TIMEOUT_S)
    assert [result.bundle for result in results] == ["first", "first", "third"]
