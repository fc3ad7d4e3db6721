"""Audits of random frames: their selection, the comparison, and the effect of an alarm."""

import logging
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from benchmarks.view.shifts import SHIFTS
from edge.decision import decide
from edge.frames.base import frame_from_array
from edge.inference.record import record
from edge.live import run
from edge.live.audit import MAX_WAITING, NICENESS, Auditor, Task
from edge.live.drift import Expected, SourceTests
from edge.live.messages import Alarm, Audit, Message, Observation
from edge.live.worker import OnMessage
from tests.live.test_run import ArraySource, Recorder
from tests.support.observations import observation

LAST_EXIT = 2


@pytest.fixture
def early(classifier: edge.Classifier) -> Iterator[edge.Classifier]:
    """Return a classifier that always answers at the first exit."""
    with classifier.with_thresholds((0.0, 0.0)) as early:
        yield early


def auditor_of(classifier: edge.Classifier, *, bound: float = 1.0, share: float = 1.0) -> Auditor:
    return Auditor(classifier, {classifier.thresholds: Expected(bound, None)}, share=share)


def audits_of(output: Recorder) -> list[Audit]:
    return [message for message in output.messages if isinstance(message, Audit)]


def one_at_a_time() -> OnMessage:
    """Return a listener that lets no frame through before the frame ahead is audited, so that there is room for all."""
    audited = threading.Semaphore(1)

    def wait(message: Message) -> None:
        if isinstance(message, Observation):
            assert audited.acquire(timeout=10)
        elif isinstance(message, Audit):
            audited.release()

    return wait


def test_audited_frames_are_compared_with_the_last_exit(classifier: edge.Classifier, digits: NDArray[np.uint8]) -> None:
    output = Recorder()
    with classifier.with_thresholds((0.5, 0.6)) as hasty, hasty.to_last_exit() as whole:
        run(hasty, [ArraySource(digits)], [output], auditor=auditor_of(hasty), on_message=one_at_a_time())
        assert len(audits_of(output)) == len(digits)
        for audit in audits_of(output):
            pixels = digits[audit.result.frame_index % len(digits)]
            assert audit.result.prediction == hasty.predict(pixels)
            assert audit.last == whole.predict(pixels)
    assert {audit.result.exit_index for audit in audits_of(output)} == {0, 1, LAST_EXIT}
    assert {audit.differs for audit in audits_of(output)} == {True, False}
    assert [observation.result.frame_index for observation in output.observations] == list(range(len(digits)))


def test_audits_change_no_thresholds_and_leave_no_thread(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    before, auditor = classifier.thresholds, auditor_of(classifier)
    run(classifier, [ArraySource(digits)], [], auditor=auditor)
    assert classifier.thresholds == before
    assert not auditor._thread.is_alive()


def test_frames_are_selected_with_the_given_probability(classifier: edge.Classifier, digits: NDArray[np.uint8]) -> None:
    output = Recorder()
    source = ArraySource(np.tile(digits, (10, 1, 1)))
    run(classifier, [source], [output], auditor=auditor_of(classifier, share=0.1))
    audits = audits_of(output)
    selected = len(audits) + audits[-1].left_out
    assert 200 < selected < 400  # 300 on average, with a standard deviation of 16


def test_frames_are_left_out_and_counted_while_earlier_ones_wait(classifier: edge.Classifier) -> None:
    published: list[Message] = []
    auditor = auditor_of(classifier)
    sampler = auditor.sampler(published.append)
    for _ in range(2 * MAX_WAITING):
        sampler.add(observation(0, exit_index=LAST_EXIT))
    auditor.start()
    auditor.close(limit_s=10)
    assert len(published) == MAX_WAITING
    sampler.add(observation(0, exit_index=LAST_EXIT))  # no room was reserved for it
    sampler.add(observation(0, exit_index=LAST_EXIT))
    last = auditor._tasks.get_nowait()
    assert last is not None
    assert last.left_out == MAX_WAITING + 1


def test_a_source_that_ended_takes_no_room(classifier: edge.Classifier) -> None:
    auditor = auditor_of(classifier)
    for _ in range(2 * MAX_WAITING):
        auditor.sampler(lambda message: None).close()
    assert auditor.room.acquire(blocking=False)


def test_too_much_disagreement_raises_an_alarm_once(
    early: edge.Classifier, digits: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    output = Recorder()
    source = ArraySource(np.tile(digits, (10, 1, 1)))
    with caplog.at_level(logging.WARNING):
        run(early, [source], [output], auditor=auditor_of(early, bound=0.001))
    [alarm] = [message for message in output.messages if isinstance(message, Alarm)]
    assert (alarm.kind, alarm.source) == ("disagreement", "ArraySource")
    assert "differ from the last exit; the bound is 0.10%" in alarm.reason
    assert [record.message for record in caplog.records] == [f"ArraySource: {alarm.reason}"]
    before = [message for message in output.messages[: output.messages.index(alarm)] if isinstance(message, Audit)]
    assert len(before) == alarm.audited


def test_alarms_about_a_bundle_that_was_replaced_are_not_published(early: edge.Classifier) -> None:
    published: list[Message] = []
    expected = {early.thresholds: Expected(0.001, None)}
    auditor = Auditor(early, expected, share=1.0, bundle="old")
    auditor.add("new", early, expected)
    tests = SourceTests(expected, None)
    for _ in range(100):
        frame = frame_from_array(np.zeros((8, 8), np.uint8), "image")
        seen = observation(7, bundle="old", thresholds=early.thresholds)
        auditor.room.acquire(blocking=False)
        auditor.put(Task(seen, frame, 0, tests, published.append))
    auditor.start()
    auditor.close(limit_s=10)
    assert sum(isinstance(message, Audit) and message.differs for message in published) == 100
    assert not any(isinstance(message, Alarm) for message in published)


def test_audits_have_a_lower_priority_than_the_process(classifier: edge.Classifier) -> None:
    def note(message: Message) -> None:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    niceness: list[int] = []
    auditor = auditor_of(classifier)
    auditor.sampler(note).add(observation(0, exit_index=LAST_EXIT))
    auditor.start()
    auditor.close(limit_s=10)
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert niceness == [min(before + NICENESS, 19)]


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_planted_in_real_images_raises_an_alarm_and_none_without_it(
    shift: str, classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    scores = record(classifier, (frame_from_array(pixels, "image") for pixels in digits)).scores
    decisions = decide(scores, np.array(classifier.thresholds, dtype=np.float32))
    shares = np.bincount(decisions.exit_index, minlength=3) / len(digits)
    disagreement = (decisions.label != scores.label[-1]).mean()
    expected = {classifier.thresholds: Expected(1.5 * disagreement + 0.01, tuple(shares.tolist()))}
    output, source = Recorder(), ArraySource(np.tile(SHIFTS[shift](digits), (5, 1, 1)))
    run(classifier, [source], [output], auditor=Auditor(classifier, expected, share=1.0))
    alarms = {message.kind for message in output.messages if isinstance(message, Alarm)}
    assert bool(alarms) == (shift != "none")


def test_the_same_disagreement_within_the_bound_raises_none(early: edge.Classifier, digits: NDArray[np.uint8]) -> None:
    output = Recorder()
    run(early, [ArraySource(np.tile(digits, (10, 1, 1)))], [output], auditor=auditor_of(early, bound=0.9))
    assert not [message for message in output.messages if isinstance(message, Alarm)]


def test_an_error_of_an_audit_does_not_end_the_run_and_is_raised_at_its_end(
    classifier: edge.Classifier, digits: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse_audits(message: Message) -> None:
        if not isinstance(message, Observation):
            raise ValueError("a bug")

    output = Recorder()
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="a bug"):
        run(classifier, [ArraySource(digits)], [output], auditor=auditor_of(classifier), on_message=refuse_audits)
    assert len(output.observations) == len(digits)
    assert caplog.text.count("an audit failed (ValueError: a bug)") == 1
