"""A stream on the stand-in for a GPU whose classifier is replaced."""

import threading
from typing import TYPE_CHECKING

from edge.frames.base import Frame
from edge.inference.result import Result
from edge.inference.stream import Stream
from tests.support.commands import wait_until
from tests.support.cuda_networks import array_frames, predict_all

if TYPE_CHECKING:
    from tests.support.cuda_networks import Networks
    from tests.support.cuda_stand_in import World


class GatedSource:
    """Frames, one after another, which wait for `gate` at each multiple of 20."""

    is_live = False

    def __init__(self, frames: list[Frame]) -> None:
        self.frames, self.given, self.gate = len(frames), 0, threading.Semaphore(0)
        self._all = frames

    def read(self, out: Frame | None = None) -> Frame | None:
        if self.given == len(self._all):
            return None
        if self.given % 20 == 0:
            self.gate.acquire()
        self.given += 1
        return self._all[self.given - 1]

    def close(self) -> None:
        """Nothing to release."""


def test_the_slots_of_a_replaced_classifier_are_freed_while_the_new_one_answers(
    network: "Networks", world: "World"
) -> None:
    old, new, frames = network("tiny cnn"), network("residual"), array_frames(60)
    source, results = GatedSource(frames), list[Result]()
    stream = Stream(old.classifier(), source, bundle="old")
    thread = threading.Thread(target=lambda: results.extend(stream))
    thread.start()
    source.gate.release()
    wait_until(lambda: len(results) == 20, "the first frames")
    open_blocks = len(world.memory) - len(world.freed)
    stream.replace(new.classifier(), "new")
    assert len(world.memory) - len(world.freed) == 2 * open_blocks
    source.gate.release()
    wait_until(lambda: len(results) == 40, "frames of both")
    stream.confirm()
    stream.close_retired()
    assert len(world.memory) - len(world.freed) == open_blocks
    source.gate.release()
    thread.join()
    assert len(world.memory) == len(world.freed)
    assert [result.bundle for result in results] == ["old"] * 20 + ["new"] * 40, (
        "the read that waited ended after the swap"
    )
    expected = predict_all(old.host_slot(), frames[:20], old.thresholds)
    expected += predict_all(new.host_slot(), frames[20:], new.thresholds)
    assert [(result.frame_index, result.label_index, result.exit_index) for result in results] == [
        (index, label_index, exit_index) for index, (label_index, exit_index, *_) in enumerate(expected)
    ]
