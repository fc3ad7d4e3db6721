"""Runs: several sources, events, outputs, limits and ends."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from edge.errors import EngineError, OutputError, SourceError, SourceLostError, UnavailableError
from edge.frames.address import SourceAddress
from edge.frames.base import Frame, FrameSource, PixelFormat
from edge.frames.open import open_address
from edge.inference.slot_pool import MIN_SLOTS
from edge.live import run
from edge.live.audit import Auditor
from edge.live.drift import Expected
from edge.live.events import Debouncer
from edge.live.messages import Event, Message, Observation, SourceChange
from edge.live.outputs.base import Output
from edge.live.triggers import Every
from tests.support.commands import TIMEOUT_S, wait_until
from tests.support.cuda_networks import IMAGES, Networks
from tests.support.cuda_stand_in import World


class ArraySource:
    """Frames of an array; may fail or wait at its end."""

    def __init__(self, frames: NDArray[np.uint8], *, is_live: bool = False, fails: Exception | None = None) -> None:
        self.is_live, self.frames = is_live, None
        self.is_closed = False
        self._frames, self._fails = iter(frames), fails

    def read(self, out: Frame | None) -> Frame | None:
        assert not self.is_closed
        pixels = next(self._frames, None)
        if pixels is None and self._fails:
            raise self._fails
        return None if pixels is None else Frame(pixels, PixelFormat.GRAY)

    def close(self) -> None:
        self.is_closed = True


class EndlessSource(ArraySource):
    """The same frame for ever."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        super().__init__(pixels[None], is_live=True)
        self._pixels = pixels

    def read(self, out: Frame | None) -> Frame | None:
        assert not self.is_closed
        return Frame(self._pixels, PixelFormat.GRAY)


class Recorder(Output):
    """An output that keeps its messages."""

    name = "recorder"

    def __init__(self, *, wants_frames: bool = False, refuses: Exception | None = None) -> None:
        self.wants_frames = wants_frames
        self.messages: list[Message] = []
        self.is_closed = False
        self._refuses = refuses

    def open(self) -> None:
        if self._refuses:
            raise self._refuses

    def write(self, messages: Sequence[Message]) -> None:
        assert not self.is_closed
        self.messages += messages

    def close(self) -> None:
        self.is_closed = True

    @property
    def observations(self) -> list[Observation]:
        return [message for message in self.messages if isinstance(message, Observation)]

    @property
    def events(self) -> list[Event]:
        return [message for message in self.messages if isinstance(message, Event)]


def test_every_output_gets_every_frame_of_a_finite_source(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    outputs = [Recorder(), Recorder()]
    source = ArraySource(np.tile(digits, (3, 1, 1)))
    run(classifier, [source], outputs)
    expected = [classifier.predict(pixels).label for pixels in digits] * 3
    for output in outputs:
        assert [observation.prediction.label for observation in output.observations] == expected
        assert [observation.result.frame_index for observation in output.observations] == list(range(len(expected)))
        assert output.is_closed
    assert source.is_closed


def test_several_sources_are_answered_independently(classifier: edge.Classifier, digits: NDArray[np.uint8]) -> None:
    class First(ArraySource):
        pass

    class Second(ArraySource):
        pass

    output = Recorder()
    run(classifier, [First(digits[:50]), Second(digits[50:80])], [output])
    for name, frames in (("First", digits[:50]), ("Second", digits[50:80])):
        mine = [observation for observation in output.observations if observation.source == name]
        assert [observation.prediction.label for observation in mine] == [classifier.predict(f).label for f in frames]


def test_frames_are_copied_for_the_outputs_that_want_them_only(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    with_frames, without = Recorder(wants_frames=True), Recorder()
    run(classifier, [ArraySource(digits)], [with_frames, without])
    copies = [observation for observation in with_frames.observations if observation.frame is not None]
    assert copies
    for observation in copies:
        assert observation.frame is not None
        assert (observation.frame.pixels == digits[observation.result.frame_index]).all()
    assert all(observation.frame is None for observation in without.observations)


def test_events_follow_the_predictions_that_decide_them(classifier: edge.Classifier, digits: NDArray[np.uint8]) -> None:
    labels = [classifier.predict(pixels).label for pixels in digits]
    first = digits[0]
    second = digits[next(index for index, label in enumerate(labels) if label != labels[0])]
    output = Recorder()
    source = ArraySource(np.stack([first] * 5 + [second] * 5))
    run(classifier, [source], [output], new_debouncer=lambda: Debouncer(3, 5))
    states = [(event.kind, event.label) for event in output.events]
    second_label = classifier.predict(second).label
    assert states == [("entered", labels[0]), ("left", labels[0]), ("entered", second_label), ("left", second_label)]
    entered = output.messages.index(output.events[0])
    assert isinstance(output.messages[entered - 1], Observation)
    assert output.messages[entered - 1].result.frame_index == 2


def test_frames_that_the_trigger_leaves_out_are_counted_as_skipped(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    output = Recorder()
    run(classifier, [ArraySource(digits)], [output], new_trigger=lambda: Every(3600))
    assert [observation.result.frame_index for observation in output.observations] == [0]
    assert output.observations[-1].result.dropped == 0


@pytest.mark.parametrize("sources", [1, 3])
def test_a_run_stops_after_the_given_number_of_frames(
    sources: int, classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    output = Recorder()
    run(classifier, [EndlessSource(digits[0]) for _ in range(sources)], [output], frames=25, policy="all")
    assert len(output.observations) == 25


def test_another_thread_can_stop_a_run(classifier: edge.Classifier, digits: NDArray[np.uint8]) -> None:
    output, stop, before = Recorder(), threading.Event(), set(threading.enumerate())
    source = EndlessSource(digits[0])
    thread = threading.Thread(target=run, args=(classifier, [source], [output]), kwargs={"stop": stop})
    thread.start()
    wait_until(lambda: output.observations, "the first observation")
    stop.set()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    assert output.is_closed
    assert source.is_closed
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("how", ["stop", "frames"])
def test_a_run_ends_and_states_are_left_while_a_trigger_leaves_out_all_frames(
    how: str, classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    output, stop = Recorder(), threading.Event()
    triggers = iter([Every(1e-9), Every(3600)])
    sources = [EndlessSource(digits[0]) for _ in range(2)]
    settings = {
        "stop": stop,
        "frames": 50 if how == "frames" else None,
        "new_trigger": lambda: next(triggers),
        "new_debouncer": lambda: Debouncer(1, 1),
    }
    thread = threading.Thread(target=run, args=(classifier, sources, [output]), kwargs=settings, daemon=True)
    thread.start()
    wait_until(lambda: len(output.events) == 2, "a state of each source")
    if how == "stop":
        stop.set()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    assert [event.kind for event in output.events] == ["entered"] * 2 + ["left"] * 2
    assert all(source.is_closed for source in sources)


def test_a_signal_ends_a_run_after_every_classified_frame_is_written(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    class Slow(EndlessSource):
        def read(self, out: Frame | None) -> Frame | None:
            ended.wait(0.1)
            return super().read(out)

    def interrupt_after_three(message: Message) -> None:
        classified.append(message)
        if len(classified) == 3:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    classified: list[Message] = []
    output, ended = Recorder(), threading.Event()
    with pytest.raises(KeyboardInterrupt):
        run(classifier, [Slow(digits[0])], [output], on_message=interrupt_after_three)
    written = list(output.messages)
    assert not ended.wait(0.3)  # for three more frames, if the source were still read
    assert classified == written


def test_a_source_that_fails_does_not_end_the_others(classifier: edge.Classifier, digits: NDArray[np.uint8]) -> None:
    output = Recorder()
    lost = ArraySource(digits[:3], fails=SourceLostError("the camera was unplugged"))
    with pytest.raises(SourceLostError, match="the camera was unplugged"):
        run(classifier, [lost, ArraySource(digits)], [output])
    assert len(output.observations) == 3 + len(digits)


def test_an_output_that_cannot_be_opened_ends_the_run_before_it_starts(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    first, second = Recorder(), Recorder(refuses=OutputError("the broker refuses the password"))
    source = ArraySource(digits)
    with pytest.raises(OutputError, match="refuses the password"):
        run(classifier, [source], [first, second])
    assert first.is_closed
    assert not first.messages


def test_an_exception_of_the_pipeline_ends_all_sources(digits: NDArray[np.uint8], classifier: edge.Classifier) -> None:
    broken = ArraySource(digits[:2], fails=RuntimeError("a bug"))
    endless = EndlessSource(digits[0])
    with pytest.raises(RuntimeError, match="a bug"):
        run(classifier, [endless, broken], [Recorder()])
    assert endless.is_closed


class SlowRecorder(Recorder):
    """A recorder that every call keeps waiting."""

    def write(self, messages: Sequence[Message]) -> None:
        time.sleep(0.1)
        super().write(messages)


def test_an_output_that_was_stuck_still_gets_every_frame_of_a_file(
    classifier: edge.Classifier, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.live.outputs.base.STUCK_S", 0.02)
    monkeypatch.setattr("edge.live.runner.STUCK_S", 0.02)
    output = SlowRecorder()
    run(classifier, [ArraySource(np.tile(digits, (3, 1, 1)))], [output])
    assert len(output.observations) == 3 * len(digits)


def test_an_output_that_fails_once_files_have_ended_does_not_end_cameras(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    class Failing(Recorder):
        failures, has_seen_end = 0, False

        def write(self, messages: Sequence[Message]) -> None:
            if self.has_seen_end:
                self.failures += 1
                raise OutputError("the disk is full")
            super().write(messages)
            self.has_seen_end = any(isinstance(each, SourceChange) and each.status == "ended" for each in messages)

    def stop_after_failures(message: Message) -> None:
        if output.failures > 1:
            stop.set()

    output, stop = Failing(), threading.Event()
    sources = [ArraySource(digits[:3]), "test://?size=64x48&rate=100"]
    run(classifier, sources, [output], frames=1000, stop=stop, on_message=stop_after_failures)
    assert output.failures > 1


def test_a_video_of_a_server_that_is_away_at_the_start_loses_no_frame(
    classifier: edge.Classifier, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_late(address: SourceAddress, **options: bool) -> FrameSource:
        if next(attempts) < 2:
            raise SourceError("connection refused")
        return ArraySource(np.tile(digits, (3, 1, 1)))

    monkeypatch.setattr("edge.live.sources.open_address", open_late)
    attempts, output = count(), SlowRecorder()
    run(classifier, ["http://127.0.0.1/video.mp4"], [output], new_trigger=lambda: Every(1e-9))
    assert len(output.observations) == 3 * len(digits)
    assert next(attempts) == 3


# On a GPU


def preparations(world: World) -> tuple[int, int]:
    """Return how many streams were made and segments captured: one stream for each slot, and one for each capture."""
    return world.calls["stream"], world.calls["cuStreamBeginCapture"]


def test_all_slots_of_sources_and_audits_are_prepared_before_a_source_opens(
    network: Networks, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_opening = []

    def refuse(address: SourceAddress, **options: bool) -> FrameSource:
        at_opening.append(preparations(world))
        raise UnavailableError("no library for cameras")

    monkeypatch.setattr("edge.live.sources.open_address", refuse)
    tiny, slots = network("tiny cnn", spec=IMAGES), 2 * MIN_SLOTS + 1
    with tiny.classifier() as classifier:
        auditor = Auditor(classifier, {classifier.thresholds: Expected(1.0, None)})
        with pytest.raises(UnavailableError, match="no library for cameras"):
            run(classifier, ["test://", "test://"], auditor=auditor)
    assert at_opening == [(slots * (1 + tiny.exits), slots * tiny.exits)]
    assert world.calls["mem_alloc"] == world.calls["free"]


def test_no_segment_is_bound_or_captured_once_a_source_is_open(
    network: Networks, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_opening, output = [], Recorder()

    def open_counted(address: SourceAddress, **options: bool) -> FrameSource:
        at_opening.append(preparations(world))
        return open_address(address, **options)

    monkeypatch.setattr("edge.live.sources.open_address", open_counted)
    with network("tiny cnn", spec=IMAGES).classifier() as classifier:
        run(classifier, ["test://?size=64x48&rate=0&frames=5"], [output], policy="all")
    assert len(output.observations) == 5
    assert at_opening == [preparations(world)]


@pytest.mark.parametrize("slots", [0, 1, 6])
def test_without_memory_for_all_slots_no_source_is_opened_and_nothing_is_kept(
    slots: int, network: Networks, world: World
) -> None:
    tiny, bound, output = network("tiny cnn", spec=IMAGES), count(), Recorder()
    bind = tiny.engines[0].bind

    def bind_some(addresses: dict[str, int]) -> Callable[[int], None]:
        if next(bound) == slots:
            raise EngineError("no memory")
        return bind(addresses)

    tiny.engines[0].bind = bind_some  # type: ignore[method-assign]
    given = ArraySource(np.zeros((3, 12, 12), np.uint8))
    with tiny.classifier() as classifier:
        auditor = Auditor(classifier, {classifier.thresholds: Expected(1.0, None)})
        with pytest.raises(EngineError, match="no memory"):
            run(classifier, [given, "/nonexistent"], [output], auditor=auditor)
    assert given.is_closed
    assert output.is_closed
    assert world.calls["mem_alloc"] == world.calls["free"]
