"""The pipeline on stand-ins that refuse illegal use and control when the next step may happen."""

import threading

import numpy as np
import pytest

from edge.errors import SourceError
from edge.inference.pipeline import Pipeline, Policy
from edge.inference.result import Result
from edge.inference.slot_pool import MIN_SLOTS, SlotGroup, SlotPool
from tests.support.pipelines import (
    PACE,
    WAIT,
    Hook,
    PacedSource,
    Source,
    finish_in_time,
    indices,
    no_hook,
    pipeline_of,
    slots,
)


@pytest.mark.parametrize("count", range(MIN_SLOTS))
def test_too_few_slots_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{MIN_SLOTS} slots, got {count}"):
        pipeline_of(Source(1), slots(count), "all")


@pytest.mark.parametrize("policy", ["all", "latest"])
def test_a_source_without_frames_yields_no_results(policy: Policy) -> None:
    assert list(pipeline_of(Source(0), slots(), policy)) == []


@pytest.mark.parametrize("count", [MIN_SLOTS, MIN_SLOTS + 5])
def test_policy_all_answers_every_frame_in_order_with_slow_inference(count: int) -> None:
    frames = 40
    source = Source(frames)
    moved = threading.Event()

    def slow(index: int) -> None:
        """Go on only when capture has run as far ahead as the slots let it."""
        while source.given < min(frames, index + count):
            moved.wait(0.001)

    pipeline = pipeline_of(source, slots(count, before_result=slow), "all")
    results: list[Result] = []
    finish_in_time(lambda: results.extend(pipeline))
    assert indices(results) == list(range(frames))
    assert {result.dropped for result in results} == {0}


def test_capture_runs_ahead_by_at_most_the_number_of_slots() -> None:
    source = Source(40)
    seen = [source.given - result.frame_index for result in pipeline_of(source, slots(), "all")]
    assert max(seen) <= MIN_SLOTS


def test_policy_latest_answers_fresh_frames_and_counts_dropped_ones() -> None:
    source = PacedSource()
    ages = []

    def slow(index: int) -> None:
        """Take as long as the source takes for some frames."""
        ages.append(source.given - 1 - index)
        for _ in range(0 if source.is_over else PACE):
            source.give(1)

    answered: list[int] = []
    dropped: list[int] = []

    def consume() -> None:
        for result in pipeline_of(source, slots(before_result=slow), "latest"):
            answered.append(result.frame_index)
            dropped.append(result.dropped)
            if len(answered) == 20:
                source.end()

    source_starts = threading.Thread(target=source.give, args=(1,), daemon=True)
    source_starts.start()
    finish_in_time(consume)
    assert answered == sorted(set(answered))
    assert dropped == sorted(dropped)
    assert max(ages) <= 1, "the inference of a frame started that was not the latest"
    assert dropped[-1] + len(answered) == source.given
    assert dropped[-1] > source.given / 2


def test_policy_latest_drops_nothing_when_inference_keeps_up() -> None:
    source = PacedSource()
    starter = threading.Thread(target=source.give, args=(1,), daemon=True)
    starter.start()
    results = []
    for result in pipeline_of(source, slots(), "latest"):
        results.append(result)
        if len(results) == 10:
            source.end()
        else:
            source.give(1)
    assert indices(results) == list(range(10))
    assert results[-1].dropped == 0


def test_capture_and_inference_overlap() -> None:
    frames = 12
    meeting = threading.Barrier(2, timeout=WAIT)

    def stage(first: int) -> Hook:
        """Frame n is inferred only while n + 2 is captured."""

        def meet(index: int) -> None:
            if first <= index < first + frames - 2:
                meeting.wait()

        return meet

    pipeline = pipeline_of(Source(frames, before=stage(2)), slots(before_result=stage(0)), "all")
    results: list[Result] = []
    finish_in_time(lambda: results.extend(pipeline))
    assert indices(results) == list(range(frames))


def test_with_policy_all_later_frames_are_preprocessed_during_an_inference() -> None:
    frames = 12
    started = [threading.Event() for _ in range(frames)]

    def finish(index: int) -> None:
        """Wait for the frame with which the last free slot is taken."""
        last = index + MIN_SLOTS - 1
        assert all(event.wait(WAIT) for event in started[last : last + 1]), "no later frame is preprocessed"

    hooks: dict[str, Hook] = {"before_start": lambda index: started[index].set(), "before_result": finish}
    results: list[Result] = []
    finish_in_time(lambda: results.extend(pipeline_of(Source(frames), slots(**hooks), "all")))
    assert indices(results) == list(range(frames))


def test_with_policy_latest_a_frame_is_preprocessed_just_before_its_inference() -> None:
    order: list[str] = []
    used = slots(
        before_start=lambda index: order.append(f"start {index}"),
        before_result=lambda index: order.append(f"result {index}"),
    )
    answered = indices(list(pipeline_of(Source(40), used, "latest")))
    assert order == [f"{step} {index}" for index in answered for step in ("start", "result")]


def test_times_belong_to_the_frame_of_the_result() -> None:
    slept = threading.Event()
    slow_frame = 3

    def pause(index: int) -> None:
        if index == slow_frame:
            slept.wait(0.05)

    results = list(pipeline_of(Source(6, before=pause), slots(before_start=pause, before_result=pause), "all"))
    for stage in ("capture_ms", "load_ms", "infer_ms"):
        assert max(results, key=lambda result: getattr(result, stage)).frame_index == slow_frame
    for result in results:
        assert result.latency_ms >= result.load_ms + result.infer_ms


def run_capture_ahead(source: Source, result: Result, frames: int) -> None:
    moved = threading.Event()
    while source.given < min(frames, result.frame_index + MIN_SLOTS):
        moved.wait(0.001)


def test_a_result_can_copy_its_frame_and_tensors_until_the_next_is_requested() -> None:
    source = Source(30)
    for result in pipeline_of(source, slots(), "all"):
        run_capture_ahead(source, result, 30)
        assert (result.copy_frame().pixels == result.frame_index).all()
        assert (result.copy_tensors()["image"] == result.frame_index).all()


def test_copies_of_a_frame_are_not_overwritten_by_later_frames() -> None:
    source, copies = Source(30), []
    for result in pipeline_of(source, slots(), "all"):
        run_capture_ahead(source, result, 30)
        copies.append(result.copy_frame())
    assert [int(frame.pixels.flat[0]) for frame in copies] == list(range(30))


def test_a_result_whose_frame_was_recycled_refuses_to_copy_it() -> None:
    results = list(pipeline_of(Source(12), slots(), "all"))
    for result in results:
        with pytest.raises(SourceError, match=f"frame {result.frame_index} is no longer"):
            result.copy_frame()
        with pytest.raises(SourceError, match=f"tensors of frame {result.frame_index} are no longer"):
            result.copy_tensors()


def test_every_frame_starts_with_the_thresholds_of_its_moment() -> None:
    current = [0.0]
    source, used = Source(10), slots()
    pool = SlotPool(SlotGroup(used, lambda: np.array(current, dtype=np.float32)))
    pipeline = Pipeline(source, pool, "all")
    for result in pipeline:
        run_capture_ahead(source, result, 10)
        current[0] = 0.25
    assert {value for slot in used for value in slot.thresholds} == {0.25}


@pytest.mark.parametrize("policy", ["all", "latest"])
@pytest.mark.parametrize("error", [SourceError("unplugged"), RuntimeError("out of memory")])
@pytest.mark.parametrize("stage", ["read", "start", "result"])
@pytest.mark.parametrize("broken", [0, 1, 6])
def test_errors_are_raised_after_the_results_of_earlier_frames(
    stage: str, broken: int, error: Exception, policy: Policy
) -> None:
    def fail(index: int) -> None:
        if index >= broken:
            raise error

    source = Source(50, before=fail if stage == "read" else no_hook)
    hooks = {} if stage == "read" else {f"before_{stage}": fail}
    results: list[Result] = []
    before = set(threading.enumerate())

    def consume() -> None:
        for result in pipeline_of(source, slots(**hooks), policy):
            results.append(result)

    with pytest.raises(type(error), match=str(error)):
        finish_in_time(consume)
    answered = indices(results)
    assert answered == (list(range(broken)) if policy == "all" else sorted(set(answered) & set(range(broken))))
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("policy", ["all", "latest"])
@pytest.mark.parametrize("way", ["break", "close", "raise"])
def test_abandoning_the_iteration_stops_all_threads(way: str, policy: Policy) -> None:
    endless = 10**9
    before = set(threading.enumerate())

    def leave() -> None:
        pipeline = pipeline_of(Source(endless), slots(), policy)
        if way == "close":
            results = iter(pipeline)
            next(results)
            results.close()  # type: ignore[attr-defined]  # it is a generator
            return
        for _ in pipeline:
            if way == "raise":
                raise KeyboardInterrupt
            break

    if way == "raise":
        with pytest.raises(KeyboardInterrupt):
            finish_in_time(leave)
    else:
        finish_in_time(leave)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(("policy", "count"), [("all", MIN_SLOTS), ("latest", MIN_SLOTS + 2)])
def test_all_slots_are_prepared_for_the_first_frame(policy: Policy, count: int) -> None:
    used = slots(count)
    assert indices(list(pipeline_of(Source(3), used, policy)))
    assert {len(slot.prepared) for slot in used} == {1}
