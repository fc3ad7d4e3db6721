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
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from queue import Empty, SimpleQueue
from time import monotonic_ns, time
from typing import Literal, get_args

from edge.decision import Prediction
from edge.errors import SourceError
from edge.frames.base import Frame, FrameSource
from edge.inference.result import Result
from edge.inference.slot_pool import InFlightFrame, SlotPool

Policy = Literal["latest", "all"]
POLICIES = get_args(Policy)

STUCK_READ_S = 1.0
"""Seconds to wait at the end for a source that hangs in a read, such as a silent stream."""


class Pipeline:
    """A source, slots, and the thread between them. Iterate over it once."""

    def __init__(self, source: FrameSource, pool: SlotPool, policy: Policy | None = None) -> None:
        """Connect a source with slots; the caller closes both.

        Args:
            source: The source. One that is waited for need not know before its first frame if it is live.
            pool: The slots.
            policy: `latest` drops late frames, `all` drops none; by default `latest` for live sources, else `all`.

        Raises:
            SourceError: the policy is unknown.
        """
        if policy not in (None, *POLICIES):
            raise SourceError(f"unknown policy {policy!r}; choose {' or '.join(POLICIES)}")
        self.dropped = 0
        self._source, self._pool = source, pool
        self._policy, self._is_latest = policy, False
        self._captured: SimpleQueue[InFlightFrame | None] = SimpleQueue()
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
                in_flight, prediction, started_ns = self._classify(in_flight)
                decided_ns = monotonic_ns()
                try:
                    yield self._result(in_flight, prediction, inference_ns, started_ns, decided_ns)
                finally:
                    in_flight.frame_index = -1
                self._pool.give_back(in_flight)
        finally:
            self._stopping = True
            self._pool.end()
            capture.join(timeout=STUCK_READ_S)
            with self._starting:  # it may be preparing memory and graphs for a first frame
                pass
        if self._error is not None:
            raise self._error

    def _classify(self, in_flight: InFlightFrame) -> tuple[InFlightFrame, Prediction, int]:
        """Return the slot that answered, its prediction, and the time when inference started.

        If a classifier on trial fails, the one before it answers.
        """
        group = in_flight.group
        try:
            return in_flight, *self._infer(in_flight)
        except Exception as error:
            reserve = self._pool.rescue(in_flight)
            if reserve is None:
                raise
            prediction, started_ns = self._infer(reserve)
            self._pool.note_failure(group, error)
            return reserve, prediction, started_ns

    def _infer(self, in_flight: InFlightFrame) -> tuple[Prediction, int]:
        if not in_flight.is_started:
            self._start(in_flight)
        started_ns = monotonic_ns()
        return in_flight.slot.result(), started_ns

    def _start(self, in_flight: InFlightFrame) -> None:
        started_ns = monotonic_ns()
        in_flight.start()
        in_flight.load_ns = monotonic_ns() - started_ns

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
            bundle=in_flight.group.bundle,
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
        while (in_flight := self._pool.take()) is not None and not self._stopping:
            started_ns = monotonic_ns()
            frame = self._source.read(in_flight.slot.buffer or in_flight.frame)
            if frame is None:
                return
            in_flight.frame, in_flight.is_started = frame, False
            in_flight.captured_ns, in_flight.captured_at_s = monotonic_ns(), time()
            in_flight.capture_ns = in_flight.captured_ns - started_ns
            in_flight.frame_index = frame_index
            if frame_index == 0:
                self._is_latest = (self._policy or ("latest" if self._source.is_live else "all")) == "latest"
                self._prepare_slots(frame)
            frame_index += 1
            if self._pool.is_current(in_flight):
                self._publish(in_flight)
            elif (renewed := self._renewed(in_flight)) is not None:
                self._publish(renewed)

    def _renewed(self, in_flight: InFlightFrame) -> InFlightFrame | None:
        """Return another slot with a frame whose classifier was replaced during the read; None at the end."""
        with self._starting:
            return None if self._stopping else self._pool.renew(in_flight)

    def _prepare_slots(self, frame: Frame) -> None:
        """Prepare the slots for frames like the first one."""
        with self._starting:
            if not self._stopping:  # else slots are closed
                self._pool.prepare(frame)

    def _publish(self, in_flight: InFlightFrame) -> None:
        """Pass a frame on to the caller's thread; with `latest`, it replaces waiting frames."""
        if self._is_latest:
            self._drop_waiting()
        elif self._pool.is_empty:
            with self._starting:
                if self._stopping:
                    return
                with suppress(Exception):  # the caller's thread repeats it, where it is raised or another slot answers
                    self._start(in_flight)
        self._captured.put(in_flight)

    def _drop_waiting(self) -> None:
        with suppress(Empty):
            while (waiting := self._captured.get_nowait()) is not None:
                self._pool.give_back(waiting)
                self.dropped += 1
