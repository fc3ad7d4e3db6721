"""The thread of a source, and the state that the sources of a run share."""

import threading
from collections.abc import Callable
from datetime import datetime, timezone

from edge.errors import EdgeError
from edge.frames.base import Frame, FrameSource
from edge.inference.classifier import Classifier
from edge.inference.pipeline import Policy, Result
from edge.live.events import Debouncer
from edge.live.hub import Hub
from edge.live.messages import Message, Observation, SourceChange, SourceStatus
from edge.progress import OnProgress, Progress

REPORT_INTERVAL_S = 0.1
"""Seconds between two reports of progress."""

OnMessage = Callable[[Message], None]


class RunState:
    """State that the sources of a run share."""

    def __init__(
        self,
        hub: Hub,
        stop: threading.Event,
        on_message: OnMessage,
        on_progress: OnProgress,
        frames: int | None,
    ) -> None:
        """Allow `frames` observations, or any number if None."""
        self.stop, self.on_progress, self.frames = stop, on_progress, frames
        self._hub, self._on_message = hub, on_message
        self._frames_left, self._lock = frames, threading.Lock()

    def publish(self, message: Message) -> None:
        """Pass an event or a change of a source on."""
        self._on_message(message)
        self._hub.publish(message)

    def publish_frame(self, observation: Observation, copy_frame: Callable[[], Frame]) -> None:
        """Pass an observation on, unless the run has enough of them."""
        if self._frames_left is not None and not self._take_frame():
            return
        self._on_message(observation)
        self._hub.publish_frame(observation, copy_frame)

    def _take_frame(self) -> bool:
        with self._lock:
            assert self._frames_left is not None, "no limit"  # noqa: S101 - the caller checked it
            self._frames_left -= 1
            if self._frames_left <= 0:
                self.stop.set()
            return self._frames_left >= 0


class SourceWorker:
    """Classification of one source in a thread of its own.

    Attributes:
        error: The exception that ended it; None before, and after a regular end.
    """

    def __init__(self, name: str, classifier: Classifier, policy: Policy | None, state: RunState) -> None:
        """Prepare the thread of the source with this public address."""
        self.error: BaseException | None = None
        self._name, self._classifier, self._policy, self._state = name, classifier, policy, state
        self._debouncer: Debouncer | None = None
        self._thread: threading.Thread | None = None

    def start(self, source: FrameSource, debouncer: Debouncer | None) -> None:
        """Start to classify a source, which is closed at the end; without a debouncer there are no events."""
        self._debouncer = debouncer
        self._thread = threading.Thread(target=self._work, args=(source,), name=f"source {self._name}", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the end of the source, if it was started."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def report(self, status: SourceStatus, reason: str, reconnects: int) -> None:
        """Publish a change of the source."""
        self._state.publish(SourceChange(self._name, datetime.now(timezone.utc), status, reason, reconnects))

    def _work(self, source: FrameSource) -> None:
        try:
            self._classify(source)
        except EdgeError as error:
            self.error = error
        except BaseException as error:
            self.error = error
            self._state.stop.set()
        finally:
            if self._debouncer is not None:
                for event in self._debouncer.end():
                    self._state.publish(event)

    def _classify(self, source: FrameSource) -> None:
        total, next_report_s = self._state.frames or source.frames, 0.0
        for count, result in enumerate(self._classifier.stream(source, policy=self._policy), start=1):
            observation = self._observation(result)
            self._state.publish_frame(observation, result.copy_frame)
            if observation.captured_s >= next_report_s:
                next_report_s = observation.captured_s + REPORT_INTERVAL_S
                note = f"{result.label} {result.probability:.0%} at exit {result.exit_index}"
                self._state.on_progress(Progress(self._name, count, total, note))
            if self._debouncer is not None:
                for event in self._debouncer.add(observation):
                    self._state.publish(event)
            if self._state.stop.is_set():
                return

    def _observation(self, result: Result) -> Observation:
        return Observation(
            source=self._name,
            time=result.time,
            captured_s=result.captured_s,
            position=result.position,
            frame_index=result.frame_index,
            prediction=result.prediction,
            age_ms=result.age_ms,
            latency_ms=result.latency_ms,
            capture_ms=result.capture_ms,
            load_ms=result.load_ms,
            infer_ms=result.infer_ms,
            dropped=result.dropped,
            skipped=result.skipped,
            damaged=result.damaged,
        )
