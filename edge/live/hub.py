"""Distribution of messages to all outputs."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from threading import Event
from time import monotonic

from edge.frames.base import Frame
from edge.live.messages import Message, Observation
from edge.live.outputs.base import Output, OutputQueue


class Hub:
    """The queues of all outputs. Messages may be published by several threads."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        """Open all outputs; if one cannot be opened, the others are closed.

        Raises:
            EdgeError: an output cannot be used as configured.
        """
        self.queues: list[OutputQueue] = []
        with ExitStack() as opened:
            for output in outputs:
                self.queues.append(OutputQueue(output))
                opened.callback(self.queues[-1].close)
            for output in outputs:
                output.watch(self.queues)
            opened.pop_all()

    def require(self, source: str, stop: Event) -> None:
        """Lose no message of a source, which waits for late outputs until `stop` is set."""
        for queue in self.queues:
            queue.require(source, stop)

    def release(self, source: str) -> None:
        """Note that a source has ended while others go on: it is required until its messages are written."""
        for queue in self.queues:
            queue.release(source)

    def publish(self, message: Message, *, may_wait: bool) -> None:
        """Queue a message for every output."""
        for queue in self.queues:
            queue.put(message, may_wait=may_wait)

    def publish_frame(self, observation: Observation, copy_frame: Callable[[], Frame], *, may_wait: bool) -> None:
        """Queue an observation for every output, with one read-only copy of the frame for those that need it."""
        with_frame: Observation | None = None
        for queue in self.queues:
            if queue.wants_frame(observation, may_wait=may_wait):
                with_frame = with_frame or replace(observation, frame=_read_only(copy_frame()))
                if queue.output.wants_attention and with_frame.attention is None:
                    with_frame = replace(with_frame, attention=observation.result.copy_attention())
                queue.put(with_frame, may_wait=may_wait)
            else:
                queue.put(observation, may_wait=may_wait)

    def keep_alive(self) -> None:
        """Tell every output that a source without a result still works."""
        for queue in self.queues:
            queue.output.keep_alive()

    def drain(self) -> None:
        """Wait until the queues that lose nothing are written, or the run stops."""
        for queue in self.queues:
            queue.drain()

    def close(self, limit_s: float) -> None:
        """Write the queued messages and close all outputs; those that take longer are left behind. Idempotent."""
        for queue in self.queues:
            queue.end()
        deadline = monotonic() + limit_s
        for queue in self.queues:
            queue.close(max(0.0, deadline - monotonic()))

    def raise_errors(self) -> None:
        """Raise the first error of an output that must not lose messages.

        Raises:
            Exception: the error of the output.
        """
        for queue in self.queues:
            if queue.error is not None:
                raise queue.error


def _read_only(frame: Frame) -> Frame:
    """Protect the pixels of a frame that outputs share, each in a thread of its own."""
    frame.pixels.flags.writeable = False
    return frame
