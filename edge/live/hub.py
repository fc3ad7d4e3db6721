"""Distribution of messages to all outputs."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
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
            opened.pop_all()
        for output in outputs:
            output.watch(self.queues)

    def require_all(self) -> None:
        """Lose no message from now on: late outputs are waited for, as long as they are not stuck."""
        for queue in self.queues:
            queue.lossless = True

    def publish(self, message: Message) -> None:
        """Queue a message for every output."""
        for queue in self.queues:
            queue.put(message)

    def publish_frame(self, observation: Observation, copy_frame: Callable[[], Frame]) -> None:
        """Queue an observation for every output, with a copy of the frame for those that need it."""
        with_frame: Observation | None = None
        for queue in self.queues:
            if not queue.wants_frame(observation):
                queue.put(observation)
                continue
            with_frame = with_frame or replace(observation, frame=copy_frame())
            queue.put(with_frame)

    def close(self, limit_s: float) -> None:
        """Write the queued messages and close all outputs; those that take longer are left behind. Idempotent.

        Raises:
            Exception: an output failed that must not lose messages.
        """
        for queue in self.queues:
            queue.end()
        deadline = monotonic() + limit_s
        for queue in self.queues:
            queue.close(max(0.0, deadline - monotonic()))
        for queue in self.queues:
            if queue.error is not None:
                raise queue.error
