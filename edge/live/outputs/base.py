"""Interface of an output, and the bounded queue that keeps a slow one from slowing the pipeline."""

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

from edge.errors import OutputError, described
from edge.live.messages import Message, Observation

MAX_QUEUED = 256
"""Messages that wait for an output; further ones replace the oldest, which are counted as dropped."""
MAX_QUEUED_FRAMES = 4
"""Frames that wait for an output, which are large; further ones are not copied, and are counted as dropped."""
MIN_INTERVAL_S = 0.02
"""Least time between two calls: an output of thousands of messages a second writes them in blocks."""
STUCK_S = 10.0
"""Wait for room after which a lossless queue says that its output is stuck, and longest wait for it at the end."""
STOP_POLL_S = 0.05
"""Longest wait for room until the stop of the run is noticed."""
CLOSE_LIMIT_S = 0.5
"""Longest wait at the end for an output that hangs."""

log = logging.getLogger(__name__)


class Output(ABC):
    """Receiver of messages, called by a thread of its own: it may block or raise without harm to the pipeline."""

    name: str
    """Name in the log and in metrics."""
    wants_frames = False
    """True to receive the frame with every observation, or with those it chooses: a read-only copy for all outputs."""

    @property
    def wants_attention(self) -> bool:
        """True to receive the attention map with each frame. Read by the pipeline, before it copies the frame."""
        return False

    def watch(self, queues: Sequence["OutputQueue"]) -> None:  # noqa: B027 - optional, not abstract
        """Receive the queues of all outputs, to report their drops and failures."""

    def open(self) -> None:  # noqa: B027
        """Open files or connections that must be there from the start. Called before the first message.

        Raises:
            EdgeError: the output cannot be used as configured; the run does not start.
        """

    def keep_alive(self) -> None:  # noqa: B027
        """Note that a source without a result still works. Called by its thread, so it must not block or raise."""

    def chooses(self, observation: Observation) -> bool:
        """Check that the frame of an observation is needed. Called by the pipeline, before it copies the frame."""
        return True

    @abstractmethod
    def write(self, messages: Sequence[Message]) -> None:
        """Write messages, in their order. An exception is logged, and the run continues; a lossless run ends."""

    def close(self) -> None:  # noqa: B027
        """Write the rest and release everything. Idempotent; takes no longer than `CLOSE_LIMIT_S`."""


class OutputQueue:
    """An output with its thread and its bounded queue."""

    def __init__(self, output: Output) -> None:
        """Open the output and start its thread.

        Raises:
            EdgeError: the output cannot be used as configured.
        """
        self.output = output
        self.dropped = 0
        """Messages dropped, since the output was late."""
        self.failed = 0
        """Calls of the output that raised an exception."""
        self.error: Exception | None = None
        """First exception of a lossless queue."""
        self._stop: threading.Event | None = None
        """Ends the waits for room; None before any source waits."""
        self._waiting_sources: set[str] = set()
        """Sources that wait for the output: none of their messages is dropped."""
        self._ended_sources: set[str] = set()
        self._queued: deque[Message] = deque()
        self._queued_frames = self._taken = 0
        """Frames that wait, and messages that the output is writing."""
        self._changed, self._closing = threading.Condition(), False
        self._last_error = ""
        output.open()
        self._thread = threading.Thread(target=self._work, name=f"output {output.name}", daemon=True)
        self._thread.start()

    @property
    def is_lossless(self) -> bool:
        """True while there are sources whose messages must not be lost."""
        return bool(self._waiting_sources)

    def require(self, source: str, stop: threading.Event) -> None:
        """Lose no message of a source: let it wait for room until `stop` is set, and keep the error of the output."""
        with self._changed:
            self._stop = stop
            self._waiting_sources.add(source)

    def release(self, source: str) -> None:
        """Note that a source has ended while others go on: it is required until its messages are written."""
        with self._changed:
            self._ended_sources.add(source)
            self._forget_ended()

    def wants_frame(self, observation: Observation, *, may_wait: bool = True) -> bool:
        """Check that the output needs the frame of an observation, and has room.

        Without room the frame is counted as dropped; a required source waits for room, if it may.
        """
        if not self.output.wants_frames or not self.output.chooses(observation):
            return False
        with self._changed:
            if may_wait and observation.source in self._waiting_sources:
                self._wait_for(self._has_room_for_frame)
            has_room = self._has_room_for_frame()
            self.dropped += not has_room
        return has_room

    def put(self, message: Message, *, may_wait: bool = True) -> None:
        """Queue a message. A required source waits for room, if it may.

        Otherwise the message replaces the oldest one of a source that does not wait.

        Raises:
            Exception: the queue is lossless, and the output failed.
        """
        if self.error is not None and may_wait:
            raise self.error
        with self._changed:
            if may_wait and message.source in self._waiting_sources:
                self._wait_for(lambda: len(self._queued) < MAX_QUEUED)
            self._queued.append(message)
            self._queued_frames += _has_frame(message)
            if len(self._queued) > MAX_QUEUED:
                self._drop_oldest()
            if len(self._queued) == 1 or self._is_due():
                self._changed.notify_all()

    def drain(self) -> None:
        """Wait until a lossless queue is written, or the run stops."""
        with self._changed:
            self._wait_for(lambda: not (self.is_lossless and (self._queued or self._taken)))

    def end(self) -> None:
        """Let the output write the queued messages and close, without waiting. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self, limit_s: float = CLOSE_LIMIT_S) -> None:
        """End the output, wait for it and log its losses; if it hangs, it is left behind. Idempotent."""
        self.end()
        self._thread.join(limit_s)
        if self._thread.is_alive():
            lost = self.dropped + self._taken + len(self._queued)
            log.warning("output %s hangs; %d messages are lost", self.output.name, lost)
            if self.is_lossless and lost:
                self.error = self.error or OutputError(f"output {self.output.name} hangs; {lost} messages are lost")
        elif self.dropped:
            log.warning("output %s was late; %d messages or frames are lost", self.output.name, self.dropped)

    def _wait_for(self, has_room: Callable[[], bool]) -> None:
        """Wait for room, until the run stops."""
        if self._stop is None or has_room():
            return
        stuck_s = monotonic() + STUCK_S
        while not (has_room() or self._stop.is_set()) and self._thread.is_alive():
            self._changed.wait(STOP_POLL_S)
            if monotonic() >= stuck_s:
                log.warning("output %s keeps the run waiting for more than %g s", self.output.name, STUCK_S)
                stuck_s = float("inf")

    def _forget_ended(self) -> None:
        """Wait no longer for sources that ended and whose messages are written."""
        if not self._taken and (ended := self._waiting_sources & self._ended_sources):
            self._waiting_sources -= ended - {message.source for message in self._queued}

    def _drop_oldest(self) -> None:
        """Drop the oldest observation, or the oldest message where all are events, of sources that do not wait."""
        for kind in (Observation, object):
            for index, message in enumerate(self._queued):
                if isinstance(message, kind) and message.source not in self._waiting_sources:
                    self.dropped += 1
                    self._queued_frames -= _has_frame(message)
                    del self._queued[index]
                    return

    def _has_room_for_frame(self) -> bool:
        return self._queued_frames < MAX_QUEUED_FRAMES

    def _is_due(self) -> bool:
        return self._closing or len(self._queued) >= MAX_QUEUED or not self._has_room_for_frame()

    def _work(self) -> None:
        written_at = 0.0
        while True:
            with self._changed:
                self._taken = 0
                self._forget_ended()
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queued or self._closing)
                self._changed.wait_for(self._is_due, written_at + MIN_INTERVAL_S - monotonic())
                messages, closing = list(self._queued), self._closing
                self._queued.clear()
                self._queued_frames, self._taken = 0, len(messages)
                self._changed.notify_all()
            if messages:
                self._call(partial(self.output.write, messages))
            if closing:
                self._taken = 0
                self._call(self.output.close)
                return
            written_at = monotonic()

    def _call(self, work: Callable[[], object]) -> None:
        """Call the output; an exception is counted, and kept or logged where it differs from the last."""
        try:
            work()
        except Exception as error:
            self.failed += 1
            if self.is_lossless and self._stop is not None:
                self.error = self.error or error
                self._stop.set()
                return
            reason = described(error)
            if reason != self._last_error:
                log.warning("output %s failed (%s); the run continues", self.output.name, reason)
            self._last_error = reason


def _has_frame(message: Message) -> bool:
    return isinstance(message, Observation) and message.frame is not None
