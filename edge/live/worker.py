"""The thread of a source, and the state that the sources of a run share."""

import threading
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timezone
from functools import partial
from itertools import count

from edge.errors import EdgeError
from edge.frames.base import Frame, FrameSource
from edge.inference.base import Slot
from edge.inference.classifier import Classifier
from edge.inference.pipeline import Policy
from edge.inference.result import Result
from edge.inference.stream import Stream
from edge.live.audit import Auditor
from edge.live.deadline import Deadline
from edge.live.events import Debouncer
from edge.live.hub import Hub
from edge.live.messages import Event, Message, Observation, SourceChange, SourceStatus
from edge.progress import OnProgress, Progress

REPORT_INTERVAL_S = 0.1
"""Seconds between two reports of progress."""

OnMessage = Callable[[Message], None]


class RunState:
    """State that the sources of a run share."""

    def __init__(
        self,
        hub: Hub,
        sources: Collection[str],
        stop: threading.Event,
        on_message: OnMessage,
        on_progress: OnProgress,
        frames: int | None,
        auditor: Auditor | None,
        deadline: Deadline | None,
    ) -> None:
        """Start with these sources, by name; allow `frames` observations, or any number if None."""
        self.stop, self.on_progress, self.frames = stop, on_progress, frames
        self.auditor, self.deadline = auditor, deadline
        self._hub, self._on_message = hub, on_message
        self._running, self._lock = set(sources), threading.Lock()
        self._taken, self._published = count(), count()  # `next` is atomic

    def require(self, source: str) -> None:
        """Lose no message of a source that may wait."""
        self._hub.require(source, self.stop)

    def leave(self, source: str) -> bool:
        """Note that a source has ended, and check that others go on: outputs then wait for it no longer."""
        with self._lock:
            self._running.discard(source)
            others_go_on = bool(self._running)
        if others_go_on:
            self._hub.release(source)
        return others_go_on

    def publish(self, message: Message, *, may_wait: bool) -> None:
        """Pass on any message but an observation; `may_wait` for late outputs."""
        self._on_message(message)
        self._hub.publish(message, may_wait=may_wait)

    def keep_alive(self) -> None:
        """Tell the outputs that a source without a result still works."""
        self._hub.keep_alive()

    def publish_frame(self, observation: Observation, copy_frame: Callable[[], Frame], *, may_wait: bool) -> None:
        """Pass an observation on, unless the run has enough of them; the last one stops the run."""
        if self.frames is not None and next(self._taken) >= self.frames:
            return
        self._on_message(observation)
        self._hub.publish_frame(observation, copy_frame, may_wait=may_wait)
        if self.frames is not None and next(self._published) == self.frames - 1:
            self.stop.set()  # not before, since outputs do not wait for room any more


class SourceWorker:
    """Classification of one source in a thread of its own.

    Attributes:
        error: The exception that ended it; None before, and after a regular end.
        is_started: True once `start` was called.
    """

    def __init__(
        self, name: str, classifier: Classifier, policy: Policy | None, state: RunState, bundle: str = ""
    ) -> None:
        """Prepare the thread of the source with this public address; `bundle` names the classifier's in results."""
        self.error: BaseException | None = None
        self.is_started = False
        self.name = name
        self._classifier, self._bundle, self._policy, self._state = classifier, bundle, policy, state
        self._stream: Stream | None = None
        self._ended, self._frames, self._may_wait = threading.Event(), 0, False
        self._reconnects = 0
        self._slots: Sequence[Slot] = ()
        self._answered = ("", 0)
        """The bundle that answered the newest frame, and the frames that it answered in a row."""

    def prepare(self) -> None:
        """Make the slots, before the source opens. `close` releases them, unless `start` is called."""
        self._slots = self._classifier.new_slots()

    def close(self) -> None:
        """Release the slots of a source that was not started. Idempotent."""
        for slot in self._slots:
            slot.close()

    @property
    def stream(self) -> Stream | None:
        """The stream of its frames; None before the start and after the end."""
        return None if self._ended.is_set() else self._stream

    def replace(self, classifier: Classifier, bundle: str) -> None:
        """Let another classifier answer the frames captured from now on, on trial: see `Stream.replace`."""
        if (stream := self.stream) is not None:
            stream.replace(classifier, bundle)
        self._classifier, self._bundle = classifier, bundle

    @property
    def answered(self) -> int:
        """Frames in a row that the newest classifier has answered."""
        bundle, frames = self._answered
        return frames if bundle == self._bundle else 0

    def start(self, source: FrameSource, debouncer: Debouncer | None) -> None:
        """Start to classify a source, which is closed at the end, once the slots are prepared.

        Args:
            source: The source.
            debouncer: The rule by which predictions become events; None for no events.
        """
        self.is_started = True
        slots, self._slots = self._slots, ()
        self._stream = Stream(self._classifier, source, self._policy, self._bundle, slots=slots)
        work = (self._stream, source, debouncer)
        threading.Thread(target=self._run, args=work, name=f"source {self.name}", daemon=True).start()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the end of the source, if it was started.

        Not by `Thread.join`: up to Python 3.12, a signal during it makes all later ones return at once.
        """
        if self.is_started:
            self._ended.wait(timeout_s)

    def report(self, status: SourceStatus, reason: str, reconnects: int) -> None:
        """Publish a change of the source."""
        self._reconnects = reconnects
        change = SourceChange(self.name, datetime.now(timezone.utc), status, reason, reconnects)
        self._state.publish(change, may_wait=False)

    def attempt(self) -> None:
        """Keep the run alive while the source is opened again and again."""
        self._state.keep_alive()

    def skip(self, passed: int) -> None:
        """Keep the run alive while the trigger leaves frames out, and none that it passed on waits for its result."""
        if passed == self._frames:
            self._state.keep_alive()

    def _run(self, stream: Stream, source: FrameSource, debouncer: Debouncer | None) -> None:
        try:
            try:
                self._classify(stream, source, debouncer)
            except EdgeError as error:
                self.error = error
            self._leave()
        except BaseException as error:
            self.error = error
            self._state.stop.set()
        finally:
            self._ended.set()

    def _leave(self) -> None:
        """Report the end of the source where the run goes on without it."""
        if self._state.leave(self.name) and not self._state.stop.is_set():
            status: SourceStatus = "ended" if self.error is None else "lost"
            self.report(status, str(self.error or ""), self._reconnects)

    def _classify(self, stream: Stream, source: FrameSource, debouncer: Debouncer | None) -> None:
        state, publish, progress = self._state, self._publish, ProgressReports(self.name, self._state.on_progress)
        publish_audit = partial(state.publish, may_wait=False)  # all sources share the auditor's thread
        sampler = None if state.auditor is None else state.auditor.sampler(publish_audit)
        try:
            for result in stream:
                if self._frames == 0:
                    self._begin(source, progress)
                self._frames = result.frame_index + 1
                before, answered = self._answered
                self._answered = result.bundle, answered + 1 if result.bundle == before else 1
                observation = Observation(self.name, result)
                state.publish_frame(observation, result.copy_frame, may_wait=self._may_wait)
                progress.add(result)
                if debouncer is not None:
                    _publish_all(debouncer.add(observation), publish)
                if sampler is not None:
                    sampler.add(observation)
                if state.deadline is not None and (change := state.deadline.add(observation)) is not None:
                    publish(change)
                if state.stop.is_set():
                    return
        finally:
            if sampler is not None:
                sampler.close()
            if debouncer is not None:
                _publish_all(debouncer.end(), publish)

    def _begin(self, source: FrameSource, progress: "ProgressReports") -> None:
        """Learn from a source that gives frames if its results wait for late outputs, and how many there will be."""
        self._may_wait = self._policy == "all" or not (self._policy or source.is_live)
        if self._may_wait:
            self._state.require(self.name)
        progress.total = self._state.frames or source.frames

    def _publish(self, message: Message) -> None:
        self._state.publish(message, may_wait=self._may_wait)


def _publish_all(events: Sequence[Event], publish: Callable[[Message], None]) -> None:
    for event in events:
        publish(event)


class ProgressReports:
    """Reports of a source's progress, some times a second."""

    def __init__(self, name: str, on_progress: OnProgress) -> None:
        """Count from zero."""
        self.total: int | None = None
        """Results to come in all, if it is known."""
        self._name, self._on_progress = name, on_progress
        self._count, self._next_s = 0, 0.0

    def add(self, result: Result) -> None:
        """Count a result, and report it if a report is due."""
        self._count += 1
        if result.captured_s >= self._next_s:
            self._next_s = result.captured_s + REPORT_INTERVAL_S
            note = f"{result.label} {result.probability:.0%} at exit {result.exit_index}"
            self._on_progress(Progress(self._name, self._count, self.total, note))
