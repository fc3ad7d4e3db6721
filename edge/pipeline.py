"""Frames to predictions: capture, preprocessing and inference of consecutive frames overlap, in order.

    source ──capture thread──▶ mailbox ──load thread──▶ queue ──caller's thread──▶ result
                 ▲                                                      │
                 └──────────────────── free slots ◀─────────────────────┘

A frame travels in a slot, whose buffers are made once. With the policy `all`, capture waits where no slot is
free; with `latest`, a newer frame takes the place of one that nobody has taken up yet, which is counted as dropped.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns
from typing import Literal, NamedTuple

from edge.protocols import FrameSource, Prediction, Slot

Policy = Literal["latest", "all"]

FEWEST_SLOTS = 4
"""One being captured, one in the mailbox, one being loaded, one being inferred."""


class FrameResult(NamedTuple):
    """One frame's way through the pipeline."""

    frame_index: int
    """Position in the source, dropped frames counted."""
    prediction: Prediction
    latency_ms: float
    """From the frame being there to the decision being known."""
    capture_ms: float
    """Waiting for the source and decoding; not part of the latency."""
    load_ms: float
    infer_ms: float
    dropped: int
    """Frames dropped so far."""
    slot: Slot
    """Where the frame and its tensors lie, until the next result is asked for."""


STUCK_S = 1.0
"""A source that hangs in a read, as a stream that went silent, is not waited for longer than this."""


class _Travel:
    """A slot with the times of the frame in it."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.frame_index = 0
        self.capture_ns = self.captured_ns = self.load_ns = 0


class Pipeline:
    """A source, slots, and the threads between them. Iterate over it once."""

    def __init__(self, source: FrameSource, slots: Sequence[Slot], policy: Policy) -> None:
        """Join a source with at least `FEWEST_SLOTS` slots; the caller closes the source."""
        if len(slots) < FEWEST_SLOTS:
            raise ValueError(f"a pipeline needs {FEWEST_SLOTS} slots, got {len(slots)}")
        self.dropped = 0
        self._source = source
        self._policy = policy
        # With `latest`, a frame is taken up only when the one before is being inferred, so that it stays the latest.
        self._ahead = 1 if policy == "latest" else len(slots) - 2
        self._changed = threading.Condition()
        self._free = deque(_Travel(slot) for slot in slots)
        self._mailbox: deque[_Travel] = deque()
        self._loaded: deque[_Travel] = deque()
        self._captured_all = self._loaded_all = self._stopping = False
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[FrameResult]:
        """Yield results in the order of frames.

        Raises:
            SourceError: the source broke; all frames before that were yielded.
        """
        threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in (self._capture, self._load)
        ]
        for thread in threads:
            thread.start()
        try:
            while (travel := self._take(self._loaded, lambda: self._loaded_all)) is not None:
                started = perf_counter_ns()
                prediction = travel.slot.infer()
                decided = perf_counter_ns()
                yield self._result(travel, prediction, started, decided)
                self._give(self._free, travel)
        finally:
            with self._changed:
                self._stopping = True
                self._changed.notify_all()
            capture, load = threads
            capture.join(timeout=STUCK_S)
            load.join()  # it reads from nowhere, and may be making memory and graphs for a first frame
        if self._error is not None:
            raise self._error

    def _result(self, travel: _Travel, prediction: Prediction, started: int, decided: int) -> FrameResult:
        return FrameResult(
            frame_index=travel.frame_index,
            prediction=prediction,
            latency_ms=(decided - travel.captured_ns) / 1e6,
            capture_ms=travel.capture_ns / 1e6,
            load_ms=travel.load_ns / 1e6,
            infer_ms=(decided - started) / 1e6,
            dropped=self.dropped,
            slot=travel.slot,
        )

    def _capture(self) -> None:
        frame_index = 0
        while (travel := self._free_slot()) is not None:
            started = perf_counter_ns()
            frame = self._source.read(travel.slot.frame)
            if frame is None:
                return
            travel.slot.frame = frame
            travel.captured_ns = perf_counter_ns()
            travel.capture_ns = travel.captured_ns - started
            travel.frame_index = frame_index
            frame_index += 1
            self._post(travel)

    def _load(self) -> None:
        while (travel := self._next_to_load()) is not None:
            started = perf_counter_ns()
            travel.slot.load()
            travel.load_ns = perf_counter_ns() - started
            self._give(self._loaded, travel)

    def _next_to_load(self) -> _Travel | None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._loaded) < self._ahead or self._stopping)
        return self._take(self._mailbox, lambda: self._captured_all)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work; what goes wrong is raised where the results are taken."""
        try:
            work()
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._changed:
                self._captured_all = True
                self._loaded_all = self._loaded_all or work == self._load
                self._changed.notify_all()

    def _free_slot(self) -> _Travel | None:
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._stopping)
            return None if self._stopping else self._free.popleft()

    def _post(self, travel: _Travel) -> None:
        """Hand a captured frame on; with `latest`, it takes the place of an older one."""
        with self._changed:
            while self._policy == "latest" and self._mailbox:
                self.dropped += 1
                self._free.append(self._mailbox.popleft())
            self._mailbox.append(travel)
            self._changed.notify_all()

    def _take(self, queue: deque[_Travel], ended: Callable[[], bool]) -> _Travel | None:
        with self._changed:
            self._changed.wait_for(lambda: queue or ended() or self._stopping)
            if self._stopping or not queue:
                return None
            self._changed.notify_all()  # room in the queue is what the load thread waits for
            return queue.popleft()

    def _give(self, queue: deque[_Travel], travel: _Travel) -> None:
        with self._changed:
            queue.append(travel)
            self._changed.notify_all()
