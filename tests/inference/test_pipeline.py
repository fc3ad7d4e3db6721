"""The pipeline, with stand-ins that refuse what no stage may do and that decide when the next step may happen."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.decision import Prediction
from edge.errors import SourceError
from edge.inference.pipeline import FEWEST_SLOTS, FrameResult, Pipeline, Policy
from tests.support.commands import PATIENCE

WAIT = 5.0
PACE = 7
"""Frames a live source gives during one inference."""

Hook = Callable[[int], None]


def nothing(index: int) -> None:
    pass


class Source:
    """Gives frames that hold their own index, written into the array handed in, as a camera does."""

    is_live = False

    def __init__(self, frames: int, before: Hook = nothing) -> None:
        self.frames: int | None = frames
        self.given = 0
        self._before = before
        self._reading = threading.Lock()
        self._ended = False

    def read(self, out: NDArray[Any] | None) -> NDArray[Any] | None:
        assert self._reading.acquire(blocking=False), "two threads read at once"
        try:
            assert not self._ended, "read after the end"
            self._before(self.given)
            if self.given == self.frames:
                self._ended = True
                return None
            frame = np.zeros(2, dtype=np.int64) if out is None else out
            frame[:] = self.given
            self.given += 1
            return frame
        except BaseException:
            self._ended = True
            raise
        finally:
            self._reading.release()

    def close(self) -> None:
        """Nothing to let go of."""


class PacedSource(Source):
    """A live source: gives exactly as many frames as the test lets pass, then ends when it is told to."""

    is_live = True

    def __init__(self) -> None:
        super().__init__(frames=0, before=self._wait)
        self.frames = None
        self._changed = threading.Condition()
        self._permits = 0
        self.is_over = self._is_waiting = False

    def give(self, frames: int) -> None:
        """Let some frames pass, and return when the source waits again: all of them are posted then."""
        with self._changed:
            self._permits += frames
            self._is_waiting = False
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._is_waiting and not self._permits, WAIT), "capture stands still"

    def end(self) -> None:
        with self._changed:
            self.is_over = True
            self._changed.notify_all()

    def _wait(self, index: int) -> None:
        with self._changed:
            self._is_waiting = True
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._permits or self.is_over, WAIT), (
                "nobody asks for frames any more"
            )
            if self._permits:
                self._permits -= 1
            else:
                self.frames = index  # there is no such frame: the end


class Slot:
    """One frame's buffers. A stage that comes out of turn, or while another is at work, is refused."""

    def __init__(self, before_load: Hook = nothing, before_infer: Hook = nothing) -> None:
        self._before_load, self._before_infer = before_load, before_infer
        self._in_use = threading.Lock()
        self._frame: NDArray[Any] | None = None
        self._state = "empty"
        self._loaded = -1

    @property
    def frame(self) -> NDArray[Any] | None:
        return self._frame

    @frame.setter
    def frame(self, frame: NDArray[Any] | None) -> None:
        with self._alone(("empty", "captured", "answered"), "captured"):
            self._frame = frame

    def load(self) -> None:
        with self._alone(("captured",), "loaded"):
            assert self._frame is not None
            self._loaded = int(self._frame[0])
            self._before_load(self._loaded)
            assert (self._frame == self._loaded).all(), "the frame was written to while it was loaded"

    def infer(self) -> Prediction:
        with self._alone(("loaded",), "answered"):
            assert self._frame is not None
            self._before_infer(self._loaded)
            assert (self._frame == self._loaded).all(), "the frame was written to before its turn was over"
            return Prediction(label=self._loaded, confidence=1.0, exit_index=0, probability=1.0)

    @contextmanager
    def _alone(self, allowed: tuple[str, ...], then: str) -> Iterator[None]:
        assert self._in_use.acquire(blocking=False), "two stages use this slot at once"
        try:
            assert self._state in allowed, f"not now: the slot is {self._state}"
            yield
            self._state = then
        finally:
            self._in_use.release()


def slots(count: int = FEWEST_SLOTS, **hooks: Hook) -> list[Slot]:
    return [Slot(**hooks) for _ in range(count)]


def indices(results: list[FrameResult]) -> list[int]:
    assert [result.prediction.label for result in results] == [result.frame_index for result in results]
    return [result.frame_index for result in results]


def within_patience(work: Callable[[], None]) -> None:
    """Fail, rather than hang, where work does not end."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "this never ends"
    if failed:
        raise failed[0]


@pytest.mark.parametrize("count", range(FEWEST_SLOTS))
def test_too_few_slots_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{FEWEST_SLOTS} slots, got {count}"):
        Pipeline(Source(1), slots(count), "all")


@pytest.mark.parametrize("policy", ["all", "latest"])
def test_a_source_without_frames_gives_no_results(policy: Policy) -> None:
    assert list(Pipeline(Source(0), slots(), policy)) == []


@pytest.mark.parametrize("count", [FEWEST_SLOTS, FEWEST_SLOTS + 5])
def test_all_frames_are_answered_in_order_however_slow_inference_is(count: int) -> None:
    frames = 40
    source = Source(frames)
    moved = threading.Event()

    def slow(index: int) -> None:
        """Go on only when capture has run as far ahead as the slots let it."""
        while source.given < min(frames, index + count):
            moved.wait(0.001)

    pipeline = Pipeline(source, slots(count, before_infer=slow), "all")
    results: list[FrameResult] = []
    within_patience(lambda: results.extend(pipeline))
    assert indices(results) == list(range(frames))
    assert {result.dropped for result in results} == {0}


def test_capture_runs_no_further_ahead_than_there_are_slots() -> None:
    source = Source(40)
    seen = [source.given - result.frame_index for result in Pipeline(source, slots(), "all")]
    assert max(seen) <= FEWEST_SLOTS


def test_a_slow_consumer_gets_fresh_frames_and_the_others_are_counted_as_dropped() -> None:
    source = PacedSource()
    moment = threading.Event()
    ages = []

    def slow(index: int) -> None:
        """Take as long as the source takes for some frames, each of which may be loaded before the next."""
        for _ in range(0 if source.is_over else PACE):
            source.give(1)
            moment.wait(0.003)
        ages.append(source.given - 1 - index)

    answered: list[int] = []
    dropped: list[int] = []

    def consume() -> None:
        for result in Pipeline(source, slots(before_infer=slow), "latest"):
            answered.append(result.frame_index)
            dropped.append(result.dropped)
            if len(answered) == 20:
                source.end()

    source_starts = threading.Thread(target=source.give, args=(1,), daemon=True)
    source_starts.start()
    within_patience(consume)
    assert answered == sorted(set(answered))
    assert dropped == sorted(dropped)
    assert max(ages) <= 2 * PACE, "a frame was answered that is older than two inference times"
    assert dropped[-1] + len(answered) == source.given
    assert dropped[-1] > source.given / 2


def test_nothing_is_dropped_from_a_live_source_that_waits_for_the_answers() -> None:
    source = PacedSource()
    starter = threading.Thread(target=source.give, args=(1,), daemon=True)
    starter.start()
    results = []
    for result in Pipeline(source, slots(), "latest"):
        results.append(result)
        if len(results) == 10:
            source.end()
        else:
            source.give(1)
    assert indices(results) == list(range(10))
    assert results[-1].dropped == 0


def test_capture_load_and_infer_of_consecutive_frames_happen_at_the_same_time() -> None:
    frames = 12
    meeting = threading.Barrier(3, timeout=WAIT)

    def stage(first: int) -> Hook:
        """Frame n is inferred only while n + 1 is being loaded and n + 2 captured."""

        def meet(index: int) -> None:
            if first <= index < first + frames - 2:
                meeting.wait()

        return meet

    pipeline = Pipeline(Source(frames, before=stage(2)), slots(before_load=stage(1), before_infer=stage(0)), "all")
    results: list[FrameResult] = []
    within_patience(lambda: results.extend(pipeline))
    assert indices(results) == list(range(frames))


def test_the_next_frame_is_loaded_during_inference_even_where_no_more_are_to_be_captured() -> None:
    frames = FEWEST_SLOTS - 1  # capture needs a slot to find the end in
    capture: list[threading.Thread] = []
    loading = [threading.Event() for _ in range(frames)]

    def load(index: int) -> None:
        capture[0].join(WAIT)
        assert not capture[0].is_alive()
        loading[index].set()

    def infer(index: int) -> None:
        assert all(event.wait(WAIT) for event in loading[index + 1 : index + 2]), "the next frame is not being loaded"

    source = Source(frames, before=lambda index: capture.append(threading.current_thread()))
    results: list[FrameResult] = []
    within_patience(lambda: results.extend(Pipeline(source, slots(before_load=load, before_infer=infer), "all")))
    assert indices(results) == list(range(frames))


def test_the_times_of_a_result_are_those_of_its_own_frame() -> None:
    slept = threading.Event()
    slow_frame = 3

    def pause(index: int) -> None:
        if index == slow_frame:
            slept.wait(0.05)

    results = list(Pipeline(Source(6, before=pause), slots(before_load=pause, before_infer=pause), "all"))
    for stage in ("capture_ms", "load_ms", "infer_ms"):
        assert max(results, key=lambda result: getattr(result, stage)).frame_index == slow_frame
    for result in results:
        assert result.latency_ms >= result.load_ms + result.infer_ms


def test_a_result_lies_untouched_in_its_slot_until_the_next_one_is_asked_for() -> None:
    source = Source(30)
    moved = threading.Event()
    for result in Pipeline(source, slots(), "all"):
        while source.given < min(30, result.frame_index + FEWEST_SLOTS):
            moved.wait(0.001)
        assert result.slot.frame is not None
        assert result.slot.frame[0] == result.frame_index


@pytest.mark.parametrize("policy", ["all", "latest"])
@pytest.mark.parametrize("error", [SourceError("unplugged"), RuntimeError("out of memory")])
@pytest.mark.parametrize("stage", ["read", "load", "infer"])
@pytest.mark.parametrize("broken", [0, 1, 6])
def test_what_goes_wrong_is_raised_after_the_frames_before_it(
    stage: str, broken: int, error: Exception, policy: Policy
) -> None:
    def fail(index: int) -> None:
        if index >= broken:
            raise error

    source = Source(50, before=fail if stage == "read" else nothing)
    hooks = {} if stage == "read" else {f"before_{stage}": fail}
    results: list[FrameResult] = []
    before = set(threading.enumerate())

    def consume() -> None:
        for result in Pipeline(source, slots(**hooks), policy):
            results.append(result)

    with pytest.raises(type(error), match=str(error)):
        within_patience(consume)
    answered = indices(results)
    assert answered == (list(range(broken)) if policy == "all" else sorted(set(answered) & set(range(broken))))
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("policy", ["all", "latest"])
@pytest.mark.parametrize("way", ["break", "close", "raise"])
def test_leaving_early_stops_all_threads(way: str, policy: Policy) -> None:
    endless = 10**9
    before = set(threading.enumerate())

    def leave() -> None:
        pipeline = Pipeline(Source(endless), slots(), policy)
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
            within_patience(leave)
    else:
        within_patience(leave)
    assert set(threading.enumerate()) <= before
