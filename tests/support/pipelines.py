"""Stand-ins for a pipeline: sources and slots that refuse illegal use and control when the next step may happen."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.decision import Prediction
from edge.frames.base import Frame, PixelFormat
from edge.inference.pipeline import Pipeline, Policy
from edge.inference.result import Result
from edge.inference.slot_pool import MIN_SLOTS, SlotGroup, SlotPool
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
