"""Outputs behind queues: order, drops, and outputs that hang or fail."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest

from edge.errors import OutputError
from edge.frames.base import Frame, PixelFormat
from edge.live.messages import Event, Message, Observation
from edge.live.outputs import base
from edge.live.outputs.base import MAX_QUEUED, MAX_QUEUED_FRAMES, Output, OutputQueue
from tests.support import observations
from tests.support.commands import TIMEOUT_S, wait_until


def observation(index: int, source: str = "test://") -> Observation:
    return observations.observation(index / 30, frame_index=index, source=source)


def event(label: str) -> Event:
    return Event("entered", "test://", datetime(2026, 1, 1, tzinfo=timezone.utc), label, 7, None)


class Recorder(Output):
    """An output that keeps its messages, and waits before each call while `gate` is closed."""

    name = "recorder"

    def __init__(self) -> None:
        self.wants_frames = False
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


def test_a_full_queue_keeps_the_newest_observations_and_all_events(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    recorder.gate.clear()
    queue = OutputQueue(recorder)
    queue.put(event("first"))
    total = 3 * MAX_QUEUED
    for index in range(total):
        queue.put(observation(index))
    recorder.gate.set()
    queue.close()
    indices = [message.result.frame_index for message in recorder.messages if isinstance(message, Observation)]
    assert queue.dropped > 0
    assert len(indices) + queue.dropped == total
    assert indices == sorted(indices)
    assert indices[-1] == total - 1
    assert [message for message in recorder.messages if isinstance(message, Event)] == [event("first")]
    assert f"output recorder was late; {queue.dropped} messages or frames are lost" in caplog.text


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


def test_few_frames_wait_for_a_late_output_and_messages_without_do_not_replace_them() -> None:
    recorder = Recorder()
    recorder.wants_frames = True
    recorder.gate.clear()
    queue = OutputQueue(recorder)
    queue.put(event("first"))
    frame, copied = Frame(np.zeros((2, 2), dtype=np.uint8), PixelFormat.GRAY), 0
    for index in range(5 * MAX_QUEUED_FRAMES):
        has_frame = queue.wants_frame(observation(index))
        queue.put(replace(observation(index), frame=frame if has_frame else None))
        copied += has_frame
    assert MAX_QUEUED_FRAMES <= copied <= 2 * MAX_QUEUED_FRAMES  # some may have reached the output already
    assert queue.dropped == 5 * MAX_QUEUED_FRAMES - copied
    recorder.gate.set()
    queue.close()
    given = [message for message in recorder.messages if isinstance(message, Observation)]
    assert len(given) == 5 * MAX_QUEUED_FRAMES
    assert sum(message.frame is not None for message in given) == copied


def test_an_output_without_frames_asks_for_none() -> None:
    queue = OutputQueue(Recorder())
    assert not queue.wants_frame(observation(0))
    assert queue.dropped == 0
    queue.close()


def test_a_lossless_queue_waits_for_room_for_frames() -> None:
    recorder = Recorder()
    recorder.wants_frames = True
    recorder.gate.clear()
    queue = OutputQueue(recorder)
    queue.require("test://", threading.Event())
    queue.put(event("first"))
    frame, total = Frame(np.zeros((2, 2), dtype=np.uint8), PixelFormat.GRAY), 10 * MAX_QUEUED_FRAMES
    threading.Timer(0.05, recorder.gate.set).start()
    for index in range(total):
        assert queue.wants_frame(observation(index))
        queue.put(replace(observation(index), frame=frame))
    queue.close()
    assert queue.dropped == 0
    assert sum(isinstance(message, Observation) for message in recorder.messages) == total


def test_a_lossless_queue_waits_for_a_stuck_output_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Pausing(Recorder):
        def write(self, messages: Sequence[Message]) -> None:
            pauses.wait(3 * base.STUCK_S)
            super().write(messages)

    monkeypatch.setattr(base, "STUCK_S", 0.02)
    pauses = threading.Event()
    queue = OutputQueue(recorder := Pausing())
    queue.require("test://", threading.Event())
    expected = [observation(index) for index in range(5 * MAX_QUEUED)]
    for message in expected:
        queue.put(message)
    queue.drain()
    assert recorder.messages == expected
    assert queue.dropped == 0
    assert "output recorder keeps the run waiting for more than 0.02 s" in caplog.text
    queue.close()


@pytest.mark.parametrize("wait", ["put", "frame", "drain"])
def test_a_stop_ends_the_wait_for_a_stuck_output_and_the_loss_is_an_error(
    wait: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, stop = Recorder(), threading.Event()
    recorder.wants_frames = True
    recorder.gate.clear()
    queue = OutputQueue(recorder)
    queue.require("test://", stop)
    frame = Frame(np.zeros((2, 2), dtype=np.uint8), PixelFormat.GRAY)
    total = {"put": 3 * MAX_QUEUED, "frame": 3 * MAX_QUEUED_FRAMES, "drain": 1}[wait]

    def publish() -> None:
        for index in range(total):
            has_frame = wait == "frame" and queue.wants_frame(observation(index))
            queue.put(replace(observation(index), frame=frame if has_frame else None))
        queue.drain()

    publisher = threading.Thread(target=publish, daemon=True)
    publisher.start()
    publisher.join(0.1)
    assert publisher.is_alive()
    stop.set()
    publisher.join(TIMEOUT_S)
    assert not publisher.is_alive()
    queue.close(limit_s=0.05)
    assert f"output recorder hangs; {total + queue.dropped} messages are lost" in caplog.text
    assert isinstance(queue.error, OutputError)
    recorder.gate.set()


def test_a_camera_displaces_no_result_of_a_file() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    queue = OutputQueue(recorder)
    queue.require("file", threading.Event())
    of_file = [observation(index, "file") for index in range(MAX_QUEUED // 2)]
    for message in of_file:
        queue.put(message)
    for index in range(3 * MAX_QUEUED):
        queue.put(observation(index, "camera"), may_wait=False)
    recorder.gate.set()
    queue.close()
    assert [message for message in recorder.messages if message.source == "file"] == of_file
    assert len(recorder.messages) + queue.dropped == len(of_file) + 3 * MAX_QUEUED


def test_the_error_of_an_output_that_must_lose_nothing_stops_the_run() -> None:
    class Full(Recorder):
        def write(self, messages: Sequence[Message]) -> None:
            raise OutputError("the disk is full")

    queue, stop = OutputQueue(Full()), threading.Event()
    queue.require("test://", stop)
    queue.put(observation(0))
    assert stop.wait(TIMEOUT_S)
    with pytest.raises(OutputError, match="the disk is full"):
        queue.put(observation(1))
    queue.close()


@pytest.mark.parametrize("is_written", [True, False])
def test_a_source_that_ended_is_required_until_its_messages_are_written(is_written: bool) -> None:
    class Failing(Recorder):
        def write(self, messages: Sequence[Message]) -> None:
            super().write(messages)
            if any(message.source == "camera" for message in messages):
                raise OutputError("the disk is full")

    queue, stop = OutputQueue(recorder := Failing()), threading.Event()
    queue.require("file", stop)
    recorder.gate.clear()
    queue.put(observation(0, "file"))
    wait_until(lambda: not queue._queued, "the call")
    if not is_written:
        queue.put(observation(1, "file"))
    queue.release("file")
    for index in range(2 * MAX_QUEUED):
        queue.put(observation(index, "camera"), may_wait=False)
    recorder.gate.set()
    queue.close()
    assert [message.source for message in recorder.messages].count("file") == (1 if is_written else 2)
    assert queue.failed == 1
    assert (queue.error is None, stop.is_set()) == (is_written, not is_written)
