"""Distribution to outputs that share a frame."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge.frames.base import Frame, PixelFormat
from edge.frames.files import read_frame
from edge.live.hub import Hub
from edge.live.messages import Message, Observation
from edge.live.outputs.base import MAX_QUEUED_FRAMES, STUCK_S, Output
from edge.live.outputs.collect import Collector
from edge.live.outputs.video import Video
from edge.live.worker import RunState
from tests.support.commands import wait_until
from tests.support.observations import observation

PIXELS = np.full((240, 320, 3), 100, dtype=np.uint8)


class Scribbler(Output):
    """An output that draws into its frames."""

    name, wants_frames = "scribbler", True

    def write(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if isinstance(message, Observation) and message.frame is not None:
                message.frame.pixels[:] = 0


def publish(outputs: Sequence[Output], has_drawn: Callable[[], object]) -> None:
    """Publish a frame, and close the outputs once one has drawn."""
    hub = Hub(outputs)
    hub.publish_frame(observation(0), lambda: Frame(PIXELS.copy(), PixelFormat.BGR), may_wait=True)
    wait_until(has_drawn, "the drawing")
    hub.close(STUCK_S)


@pytest.mark.parametrize("order", [1, -1])
def test_a_collected_frame_has_no_annotation_of_a_video(order: int, tmp_path: Path) -> None:
    publish([Video(tmp_path / "video.mp4"), Collector(tmp_path / "unsure")][::order], (tmp_path / "video.mp4").exists)
    [path] = (tmp_path / "unsure").glob("*.png")
    assert (read_frame(path).pixels == PIXELS).all()


def test_no_output_can_change_the_frame_of_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish([Scribbler(), Collector(tmp_path / "unsure")], lambda: "scribbler" in caplog.text)
    [path] = (tmp_path / "unsure").glob("*.png")
    assert (read_frame(path).pixels == PIXELS).all()
    assert "output scribbler failed (ValueError" in caplog.text


class Gated(Output):
    """An output that waits before it counts the frames of its messages."""

    name, wants_frames = "gated", True

    def __init__(self) -> None:
        self.gate, self.frames = threading.Event(), 0

    def write(self, messages: Sequence[Message]) -> None:
        self.gate.wait(STUCK_S)
        self.frames += sum(isinstance(message, Observation) and message.frame is not None for message in messages)


def test_the_last_frames_of_a_limited_run_reach_an_output_that_is_behind() -> None:
    output, stop, wanted = Gated(), threading.Event(), 2 * MAX_QUEUED_FRAMES + 1
    hub = Hub([output])
    state = RunState(hub, ["test://"], stop, lambda message: None, lambda progress: None, wanted, None, None)
    state.require("test://")
    threading.Timer(0.3, output.gate.set).start()
    for index in range(wanted + 1):
        frame = Frame(PIXELS.copy(), PixelFormat.BGR)
        state.publish_frame(observation(index), lambda frame=frame: frame, may_wait=True)  # type: ignore[misc]
    assert stop.is_set()
    hub.close(STUCK_S)
    hub.raise_errors()
    assert output.frames == wanted
