"""Frames to results, in order: a thread captures frames while the caller's thread infers earlier ones.

    source ──capture thread──▶ captured ──caller's thread──▶ result
                 ▲                                │
                 └────────── free slots ◀─────────┘

Each in-flight frame owns a slot with its buffers and bindings. With the policy `all`, capture waits for a free slot,
and preprocesses a frame itself if it has to wait for the next slot: the thread that has time does that work. With
`latest`, a newer frame replaces a waiting frame, which is counted as dropped, and frames are preprocessed just before
their inference, so that they are recent.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from queue import Empty, SimpleQueue
from time import monotonic_ns, time
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge.decision import Prediction
from edge.errors import SourceError
from edge.frames.base import Frame, FrameSource
from edge.inference.base import Slot
from edge.inference.result import InFlightFrame, Result

Policy = Literal["latest", "all"]
POLICIES = get_args(Policy)

MIN_SLOTS = 4
"""Slots for capture, for inference, and for frames that wait between them."""
MAX_SLOTS = 32
"""Slots for small frames: if a frame takes microseconds, threads that seldom wait for each other are faster."""
SMALL_BYTES = 1 << 16
"""Largest size of a small frame, and of a small network input."""
STUCK_READ_S = 1.0
"""Seconds to wait at the end for a source that hangs in a read, such as a silent stream."""


class Pipeline:
    """A source, slots, and the thread between them. Iterate over it once."""

    def __init__(
        self,
        source: FrameSource,
        slots: Sequence[Slot],
        policy: Policy,
        thresholds: Callable[[], NDArray[np.float32]],
    ) -> None:
        """Connect a source with at least `MIN_SLOTS` slots; the caller closes both.

        Args:
            source: Source of frames.
            slots: Slots that process them; slots beyond `MIN_SLOTS` are used for small frames only.
            policy: Policy for late frames.
            thresholds: Returns the thresholds for the next frame.

        Raises:
            SourceError: the policy is unknown.
        """
        if policy not in POLICIES:
            raise SourceError(f"unknown policy {policy!r}; choose {' or '.join(POLICIES)}")
        if len(slots) < MIN_SLOTS:
            raise ValueError(f"a pipeline needs {MIN_SLOTS} slots, got {len(slots)}")
        self.dropped = 0
        self._source = source
        self._is_latest = policy == "latest"
        self._thresholds = thresholds
        self._spare = [InFlightFrame(slot) for slot in slots[MIN_SLOTS:]]
        self._free: SimpleQueue[InFlightFrame | None] = SimpleQueue()
        self._captured: SimpleQueue[InFlightFrame | None] = SimpleQueue()
        self._usual = [InFlightFrame(slot) for slot in slots[:MIN_SLOTS]]
        for in_flight in self._usual:
            self._free.put(in_flight)
        self._stopping = False
        self._starting = threading.Lock()
        """Held while the capture thread uses a slot."""
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[Result]:
        """Yield results in the order of frames.

        Raises:
            SourceError: the source failed; all frames before that were yielded.
        """
        capture = threading.Thread(target=self._capture_guarded, name="capture", daemon=True)
        capture.start()
        try:
            while (in_flight := self._captured.get()) is not None:
                inference_ns = monotonic_ns()
                if not in_flight.is_started:
                    self._start(in_flight)
                started_ns = monotonic_ns()
                prediction = in_flight.slot.result()
                decided_ns = monotonic_ns()
                try:
                    yield self._result(in_flight, prediction, inference_ns, started_ns, decided_ns)
                finally:
                    in_flight.frame_index = -1
                self._free.put(in_flight)
        finally:
            self._stopping = True
            self._free.put(None)
            capture.join(timeout=STUCK_READ_S)
            with self._starting:  # it may be preparing memory and graphs for a first frame
                pass
        if self._error is not None:
            raise self._error

    def _start(self, in_flight: InFlightFrame) -> None:
        """Preprocess a frame, and on a GPU start its inference."""
        assert in_flight.frame is not None, "captured without a frame"  # noqa: S101 - `_capture` set it
        started_ns = monotonic_ns()
        in_flight.thresholds = self._thresholds()
        in_flight.slot.start(in_flight.frame, in_flight.thresholds)
        in_flight.load_ns = monotonic_ns() - started_ns
        in_flight.is_started = True

    def _result(
        self, in_flight: InFlightFrame, prediction: Prediction, inference_ns: int, started_ns: int, decided_ns: int
    ) -> Result:
        return Result(
            prediction=prediction,
            frame_index=in_flight.frame_index,
            age_ms=(inference_ns - in_flight.captured_ns) / 1e6,
            latency_ms=(decided_ns - in_flight.captured_ns) / 1e6,
            capture_ms=in_flight.capture_ns / 1e6,
            load_ms=in_flight.load_ns / 1e6,
            infer_ms=(decided_ns - started_ns) / 1e6,
            dropped=self.dropped,
            skipped=getattr(self._source, "skipped", 0),
            damaged=getattr(self._source, "damaged", 0),
            time=datetime.fromtimestamp(in_flight.captured_at_s, timezone.utc),
            captured_s=in_flight.captured_ns / 1e9,
            position=None if in_flight.frame is None else in_flight.frame.position,
            thresholds=tuple(in_flight.thresholds.tolist()),
            _in_flight=in_flight,
        )

    def _capture_guarded(self) -> None:
        """Capture frames; exceptions are re-raised in the caller's thread."""
        try:
            self._capture()
        except BaseException as error:
            self._error = error
        finally:
            self._captured.put(None)

    def _capture(self) -> None:
        frame_index = 0
        while (in_flight := self._free.get()) is not None and not self._stopping:
            started_ns = monotonic_ns()
            frame = self._source.read(in_flight.slot.buffer or in_flight.frame)
            if frame is None:
                return
            in_flight.frame, in_flight.is_started = frame, False
            in_flight.captured_ns, in_flight.captured_at_s = monotonic_ns(), time()
            in_flight.capture_ns = in_flight.captured_ns - started_ns
            in_flight.frame_index = frame_index
            if frame_index == 0:
                self._prepare_slots(frame)
            frame_index += 1
            self._publish(in_flight)

    def _prepare_slots(self, frame: Frame) -> None:
        """Prepare all slots that are used for frames like the first one; the spare slots are for small frames."""
        spare = self._spare if frame.pixels.nbytes <= SMALL_BYTES else []
        with self._starting:
            if self._stopping:  # slots are closed
                return
            for in_flight in (*self._usual, *spare):
                in_flight.slot.prepare(frame)
        for in_flight in spare:
            self._free.put(in_flight)

    def _publish(self, in_flight: InFlightFrame) -> None:
        """Pass a frame on to the caller's thread; with `latest`, it replaces waiting frames."""
        if self._is_latest:
            self._drop_waiting()
        elif self._free.empty():
            with self._starting:
                if self._stopping:
                    return
                self._start(in_flight)
        self._captured.put(in_flight)

    def _drop_waiting(self) -> None:
        with suppress(Empty):
            while True:
                self._free.put(self._captured.get_nowait())
                self.dropped += 1
