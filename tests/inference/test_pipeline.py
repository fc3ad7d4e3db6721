"""The pipeline on stand-ins that refuse illegal use and control when the next step may happen."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from time import sleep
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.decision import Prediction
from edge.errors import SourceError
from edge.frames.base import Frame, PixelFormat
from edge.inference.pipeline import Pipeline, Policy
from edge.inference.result import Result
from edge.inference.slot_pool import MAX_SLOTS, MIN_SLOTS, SMALL_BYTES, SlotGroup, SlotPool
from edge.inference.stream import Stream
from tests.support.commands import TIMEOUT_S

WAIT = 5.0
PACE = 7
"""Frames a live source gives during one inference."""

Hook = Callable[[int], None]


def no_hook(index: int) -> None:
    pass


class Source:
    """Yields frames that hold their own index, written into the given buffer, as a camera does."""

    is_live = False

    def __init__(self, frames: int, before: Hook = no_hook) -> None:
        self.frames: int | None = frames
        self.given = self.allocated = 0
        self._before = before
        self._reading = threading.Lock()
        self._ended = False

    def read(self, out: Frame | None) -> Frame | None:
        assert self._reading.acquire(blocking=False), "two threads read at once"
        try:
            assert not self._ended, "read after the end"
            self._before(self.given)
            if self.given == self.frames:
                self._ended = True
                return None
            self.allocated += out is None
            pixels = np.zeros((1, 1, 2), dtype=np.int64) if out is None else out.pixels
            pixels[:] = self.given
            self.given += 1
            return Frame(pixels, PixelFormat.ARRAY)
        except BaseException:
            self._ended = True
            raise
        finally:
            self._reading.release()

    def close(self) -> None:
        """Nothing to release."""


class PacedSource(Source):
    """A live source: yields exactly as many frames as the test permits, and ends on request."""

    is_live = True

    def __init__(self) -> None:
        super().__init__(frames=0, before=self._wait)
        self.frames = None
        self._changed = threading.Condition()
        self._permits = 0
        self.is_over = self._is_waiting = False

    def give(self, frames: int) -> None:
        """Permit some frames, and return when all of them are published and the source waits again."""
        with self._changed:
            self._permits += frames
            self._is_waiting = False
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._is_waiting and not self._permits, WAIT), (
                "capture does not continue"
            )

    def end(self) -> None:
        with self._changed:
            self.is_over = True
            self._changed.notify_all()

    def _wait(self, index: int) -> None:
        with self._changed:
            self._is_waiting = True
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._permits or self.is_over, WAIT), (
                "nobody requests frames any more"
            )
            if self._permits:
                self._permits -= 1
            else:
                self.frames = index  # the end


class StrictSlot:
    """One frame's buffers. A stage out of turn, or while another is running, is refused."""

    buffer: Frame | None = None
    way = None

    def __init__(self, before_start: Hook = no_hook, before_result: Hook = no_hook) -> None:
        self._before_start, self._before_result = before_start, before_result
        self._in_use = threading.Lock()
        self._pixels = np.zeros(0)
        self._state = "empty"
        self._index = -1
        self.thresholds: list[float] = []
        self.prepared: list[tuple[int, ...]] = []
        self.closed = False

    def prepare(self, frame: Frame) -> None:
        self.prepared.append(frame.pixels.shape)

    def start(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        with self._exclusive(("empty", "answered"), "started"):
            self._pixels, self._index = frame.pixels, int(frame.pixels.flat[0])
            self.thresholds = thresholds.tolist()
            self._before_start(self._index)
            assert (self._pixels == self._index).all(), "the frame was overwritten during preprocessing"

    def result(self) -> Prediction:
        with self._exclusive(("started",), "answered"):
            self._before_result(self._index)
            assert (self._pixels == self._index).all(), "the frame was overwritten before its result"
            return Prediction(str(self._index), self._index, 1.0, 0, 1.0)

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"image": self._pixels}

    def close(self) -> None:
        self.closed = True

    @contextmanager
    def _exclusive(self, allowed: tuple[str, ...], then: str) -> Iterator[None]:
        assert self._in_use.acquire(blocking=False), "two stages use this slot at once"
        try:
            assert self._state in allowed, f"out of turn: the slot is {self._state}"
            yield
            self._state = then
        finally:
            self._in_use.release()


def pipeline_of(source: Source, slots: list[StrictSlot], policy: Policy) -> Pipeline:
    return Pipeline(source, SlotPool(group_of(slots)), policy)


def group_of(slots: list[StrictSlot], bundle: str = "") -> SlotGroup:
    return SlotGroup(slots, lambda: np.array([0.5], dtype=np.float32), bundle)


def slots(count: int = MIN_SLOTS, **hooks: Hook) -> list[StrictSlot]:
    return [StrictSlot(**hooks) for _ in range(count)]


def indices(results: list[Result]) -> list[int]:
    assert [result.label_index for result in results] == [result.frame_index for result in results]
    return [result.frame_index for result in results]


def finish_in_time(work: Callable[[], None]) -> None:
    """Run work in a thread and fail, rather than hang, if it does not end."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive(), "it never ends"
    if failed:
        raise failed[0]


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


def test_small_frames_may_use_all_slots_and_large_ones_few() -> None:
    class LargeFrames(Source):
        def read(self, out: Frame | None) -> Frame | None:
            frame = super().read(None)
            return None if frame is None else Frame(np.full((1, SMALL_BYTES), self.given - 1, "int64"), frame.format)

    for source, most in ((Source(40), MAX_SLOTS), (LargeFrames(40), MIN_SLOTS)):
        ahead = []
        for result in pipeline_of(source, slots(MAX_SLOTS), "all"):
            run_capture_ahead(source, result, 40, most)
            ahead.append(source.given - result.frame_index)
        assert max(ahead) == most


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


def run_capture_ahead(source: Source, result: Result, frames: int, slots: int = MIN_SLOTS) -> None:
    moved = threading.Event()
    while source.given < min(frames, result.frame_index + slots):
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
