"""Outputs behind queues: order, drops, and outputs that hang or fail."""

import logging
import threading
from collections.abc import Sequence
from datetime import datetime, timezone

import pytest

from edge.decision import Prediction
from edge.live.messages import Event, Message, Observation
from edge.live.outputs.base import MAX_QUEUED, OutputQueue


def observation(index: int) -> Observation:
    return Observation(
        source="test://", time=datetime(2026, 1, 1, tzinfo=timezone.utc), position=None, frame_index=index,
        prediction=Prediction("7", 7, 0.9, 0, 0.8), age_ms=1.0, latency_ms=2.0, capture_ms=1.0, load_ms=0.5,
        infer_ms=1.0, dropped=0, skipped=0, damaged=0,
    )  # fmt: skip


def event(label: str) -> Event:
    return Event("entered", "test://", datetime(2026, 1, 1, tzinfo=timezone.utc), label, 7, None)


class Recorder:
    """An output that keeps its messages, and waits before each call while `gate` is closed."""

    name, wants_frames = "recorder", False

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.gate = threading.Event()
        self.gate.set()
        self.is_closed = False

    def open(self) -> None:
        pass

    def write(self, messages: Sequence[Message]) -> None:
        self.gate.wait(10)
        self.messages += messages

    def close(self) -> None:
        self.is_closed = True


def test_messages_arrive_in_order_and_the_output_is_closed() -> None:
    recorder = Recorder()
    queue = OutputQueue(recorder)
    expected = [observation(index) for index in range(100)]
    for message in expected:
        queue.put(message)
    queue.close()
    assert recorder.messages == expected
    assert recorder.is_closed
    assert queue.dropped == 0


def test_a_full_queue_keeps_the_newest_observations_and_all_events() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    queue = OutputQueue(recorder)
    queue.put(event("first"))
    total = 3 * MAX_QUEUED
    for index in range(total):
        queue.put(observation(index))
    recorder.gate.set()
    queue.close()
    indices = [message.frame_index for message in recorder.messages if isinstance(message, Observation)]
    assert queue.dropped > 0
    assert len(indices) + queue.dropped == total
    assert indices == sorted(indices)
    assert indices[-1] == total - 1
    assert [message for message in recorder.messages if isinstance(message, Event)] == [event("first")]


def test_a_hanging_output_neither_blocks_the_pipeline_nor_the_end(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    recorder.gate.clear()
    queue = OutputQueue(recorder)
    for index in range(10 * MAX_QUEUED):
        queue.put(observation(index))
    queue.close(limit_s=0.05)
    assert "hangs" in caplog.text
    recorder.gate.set()


def test_a_failing_output_is_reported_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Recorder):
        name = "failing"

        def write(self, messages: Sequence[Message]) -> None:
            raise OSError("disk full")

    with caplog.at_level(logging.WARNING):
        queue = OutputQueue(Failing())
        called = 0
        while called < 3:
            queue.put(observation(0))
            called = queue.failed
        queue.close()
    assert caplog.text.count("disk full") == 1
