"""Frames to results: capture, preprocessing and inference of consecutive frames overlap, in order.

    source ──capture thread──▶ mailbox ──load thread──▶ queue ──caller's thread──▶ result
                 ▲                                                      │
                 └──────────────────── free slots ◀─────────────────────┘

Each in-flight frame owns a slot with its buffers and bindings. With the policy `all`, capture waits for a free slot;
with `latest`, a newer frame replaces one that is not yet being preprocessed, which is counted as dropped.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from time import perf_counter_ns, time
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge.decision import Prediction
from edge.errors import SourceError
from edge.frames.base import Frame, FrameSource
from edge.inference.base import Slot

Policy = Literal["latest", "all"]
POLICIES = get_args(Policy)

MIN_SLOTS = 4
"""One each for capture, mailbox, preprocessing and inference."""
STUCK_READ_S = 1.0
"""Seconds to wait at the end for a source that hangs in a read, such as a stream that went silent."""


class InFlightFrame:
    """A slot with the frame in it, and the frame's times."""

    def __init__(self, slot: Slot) -> None:
        """Start with an empty slot."""
        self.slot = slot
        self.frame: Frame | None = None
        self.frame_index = -1
        self.capture_ns = self.captured_ns = self.load_ns = 0
        self.captured_at_s = 0.0
        """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Result:
    """A prediction with its frame's index, origin, durations in milliseconds, and counts of frames left out."""

    prediction: Prediction
    frame_index: int
    """Position in the source, dropped frames included."""
    latency_ms: float
    """From the frame's capture to its prediction."""
    capture_ms: float
    """Waiting for the source and decoding; not part of the latency."""
    load_ms: float
    infer_ms: float
    dropped: int
    """Frames dropped so far, since inference was late."""
    skipped: int
    """Frames so far that the source's trigger left out."""
    damaged: int
    """Damaged frames or files left out so far."""
    time: datetime
    """Moment at which the frame was captured, in UTC."""
    position: str | float | None
    """Place in the source: a file's path in its folder, seconds from a video's start; None for live sources."""
    _in_flight: InFlightFrame = field(repr=False, compare=False)

    @property
    def label(self) -> str:
        """Name of the predicted class."""
        return self.prediction.label

    @property
    def label_index(self) -> int:
        """Index of the predicted class."""
        return self.prediction.label_index

    @property
    def probability(self) -> float:
        """Calibrated probability of the label."""
        return self.prediction.probability

    @property
    def confidence(self) -> float:
        """Uncalibrated confidence, as the exit rule uses it."""
        return self.prediction.confidence

    @property
    def exit_index(self) -> int:
        """The exit that answered."""
        return self.prediction.exit_index

    def copy_frame(self) -> Frame:
        """Return a copy of the frame; possible until the next result is requested or the stream is closed.

        Raises:
            SourceError: the memory holds a later frame already.
        """
        frame = self._in_flight.frame
        if frame is None or self._in_flight.frame_index != self.frame_index:
            raise SourceError(
                f"frame {self.frame_index} is gone: its memory was recycled when the next result was requested or the "
                "stream was closed; copy it before"
            )
        return Frame(frame.pixels.copy(), frame.format, frame.position)

    def copy_tensors(self) -> dict[str, NDArray[Any]]:
        """Return copies of the chain's tensors by name, under the same condition. Those not computed are stale.

        Raises:
            SourceError: the memory holds a later frame already.
        """
        if self._in_flight.frame_index != self.frame_index:
            raise SourceError(
                f"tensors of frame {self.frame_index} are gone; copy them before the next result is requested or the "
                "stream is closed"
            )
        return {name: np.array(tensor) for name, tensor in self._in_flight.slot.tensors().items()}


class Pipeline:
    """A source, slots, and the threads between them. Iterate over it once."""

    def __init__(
        self,
        source: FrameSource,
        slots: Sequence[Slot],
        policy: Policy,
        thresholds: Callable[[], NDArray[np.float32]],
    ) -> None:
        """Connect a source with at least `MIN_SLOTS` slots; the caller closes both.

        Args:
            source: Where frames come from.
            slots: Where they are processed.
            policy: What happens to late frames.
            thresholds: Returns the thresholds for the next frame.
        """
        if policy not in POLICIES:
            raise ValueError(f"unknown policy {policy!r}; choose {' or '.join(POLICIES)}")
        if len(slots) < MIN_SLOTS:
            raise ValueError(f"a pipeline needs {MIN_SLOTS} slots, got {len(slots)}")
        self.dropped = 0
        self._source = source
        self._policy = policy
        self._thresholds = thresholds
        # With `latest`, a frame is preprocessed only while the one before is inferred, so that it stays the latest.
        self._max_loaded = 1 if policy == "latest" else len(slots) - 2
        self._changed = threading.Condition()
        self._free = deque(InFlightFrame(slot) for slot in slots)
        self._mailbox: deque[InFlightFrame] = deque()
        self._loaded: deque[InFlightFrame] = deque()
        self._all_captured = self._all_loaded = self._stopping = False
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[Result]:
        """Yield results in the order of frames.

        Raises:
            SourceError: the source failed; all frames before that were yielded.
        """
        threads = [
            threading.Thread(target=self._run_guarded, args=(work,), daemon=True)
            for work in (self._capture, self._load)
        ]
        for thread in threads:
            thread.start()
        try:
            while (in_flight := self._get(self._loaded, lambda: self._all_loaded)) is not None:
                started_ns = perf_counter_ns()
                prediction = in_flight.slot.result()
                decided_ns = perf_counter_ns()
                try:
                    yield self._result(in_flight, prediction, started_ns, decided_ns)
                finally:
                    in_flight.frame_index = -1
                self._put(self._free, in_flight)
        finally:
            with self._changed:
                self._stopping = True
                self._changed.notify_all()
            capture, load = threads
            capture.join(timeout=STUCK_READ_S)
            load.join()  # it never waits for the source, and may be preparing memory and graphs for a first frame
        if self._error is not None:
            raise self._error

    def _result(self, in_flight: InFlightFrame, prediction: Prediction, started_ns: int, decided_ns: int) -> Result:
        return Result(
            prediction=prediction,
            frame_index=in_flight.frame_index,
            latency_ms=(decided_ns - in_flight.captured_ns) / 1e6,
            capture_ms=in_flight.capture_ns / 1e6,
            load_ms=in_flight.load_ns / 1e6,
            infer_ms=(decided_ns - started_ns) / 1e6,
            dropped=self.dropped,
            skipped=getattr(self._source, "skipped", 0),
            damaged=getattr(self._source, "damaged", 0),
            time=datetime.fromtimestamp(in_flight.captured_at_s, timezone.utc),
            position=None if in_flight.frame is None else in_flight.frame.position,
            _in_flight=in_flight,
        )

    def _capture(self) -> None:
        frame_index = 0
        while (in_flight := self._free_slot()) is not None:
            started_ns = perf_counter_ns()
            frame = self._source.read(in_flight.slot.buffer or in_flight.frame)
            if frame is None:
                return
            in_flight.frame = frame
            in_flight.captured_ns, in_flight.captured_at_s = perf_counter_ns(), time()
            in_flight.capture_ns = in_flight.captured_ns - started_ns
            in_flight.frame_index = frame_index
            frame_index += 1
            self._publish(in_flight)

    def _load(self) -> None:
        while (in_flight := self._next_to_load()) is not None:
            started_ns = perf_counter_ns()
            assert in_flight.frame is not None, "published without a frame"  # noqa: S101 - `_capture` set it
            in_flight.slot.start(in_flight.frame, self._thresholds())
            in_flight.load_ns = perf_counter_ns() - started_ns
            self._put(self._loaded, in_flight)

    def _next_to_load(self) -> InFlightFrame | None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._loaded) < self._max_loaded or self._stopping)
        return self._get(self._mailbox, lambda: self._all_captured)

    def _run_guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work; exceptions are re-raised in the consumer."""
        try:
            work()
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._changed:
                self._all_captured = True
                self._all_loaded = self._all_loaded or work == self._load
                self._changed.notify_all()

    def _free_slot(self) -> InFlightFrame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._stopping)
            return None if self._stopping else self._free.popleft()

    def _publish(self, in_flight: InFlightFrame) -> None:
        """Put a captured frame into the mailbox; with `latest`, it replaces older ones."""
        with self._changed:
            while self._policy == "latest" and self._mailbox:
                self.dropped += 1
                self._free.append(self._mailbox.popleft())
            self._mailbox.append(in_flight)
            self._changed.notify_all()

    def _get(self, queue: deque[InFlightFrame], ended: Callable[[], bool]) -> InFlightFrame | None:
        with self._changed:
            self._changed.wait_for(lambda: queue or ended() or self._stopping)
            if self._stopping or not queue:
                return None
            self._changed.notify_all()  # the load thread waits for room in the queue
            return queue.popleft()

    def _put(self, queue: deque[InFlightFrame], in_flight: InFlightFrame) -> None:
        with self._changed:
            queue.append(in_flight)
            self._changed.notify_all()
