"""`Classifier.stream` and `Result`."""

import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from edge.bundle.bundle import Bundle
from edge.decision import NEVER
from edge.errors import SourceError
from edge.inference.slot_pool import MIN_SLOTS
from tests.support.front_door import ArraySource, SlotLog


@pytest.mark.parametrize("kind", ["folder", "video", "path", "source"])
def test_a_stream_yields_the_predictions_of_all_frames_in_order(
    kind: str, classifier: edge.Classifier, digits: NDArray[np.uint8], folder: Path, video: Path
) -> None:
    source = {
        "folder": str(folder), "video": str(video), "path": video, "source": edge.open_source(folder)
    }[kind]  # fmt: skip
    results = list(classifier.stream(source))
    assert [result.prediction for result in results] == [classifier.predict(pixels) for pixels in digits[:30]]
    assert [result.frame_index for result in results] == list(range(30))
    assert {result.dropped for result in results} == {0}
    for result in results:
        assert (result.label, result.label_index) == (result.prediction.label, result.prediction.label_index)
        assert (result.probability, result.confidence) == (result.prediction.probability, result.prediction.confidence)
        assert result.exit_index == result.prediction.exit_index
        assert result.latency_ms >= result.infer_ms > 0
        assert min(result.capture_ms, result.load_ms) >= 0


@pytest.mark.parametrize("kind", ["folder", "video", "source"])
def test_a_result_identifies_its_frame(
    kind: str, classifier: edge.Classifier, digits: NDArray[np.uint8], folder: Path, video: Path
) -> None:
    before = datetime.now(timezone.utc)
    source: Any = {"folder": folder, "video": video, "source": ArraySource(digits[:30])}[kind]
    results = list(classifier.stream(source))
    positions = {
        "folder": [f"{index:02}.png" for index in range(30)],
        "video": pytest.approx([index / 25 for index in range(30)]),
        "source": [None] * 30,
    }
    assert [result.position for result in results] == positions[kind]
    times = [result.time for result in results]
    assert before <= times[0] <= times[-1] <= datetime.now(timezone.utc)
    assert times == sorted(times)
    assert {(result.skipped, result.damaged) for result in results} == {(0, 0)}


def test_damaged_files_are_counted_in_later_results(classifier: edge.Classifier, folder: Path) -> None:
    (folder / "03.png").write_bytes(b"no image")
    results = list(classifier.stream(edge.open_source(folder, skip_bad=True)))
    assert [result.frame_index for result in results] == list(range(29))
    assert [result.position for result in results][2:4] == ["02.png", "04.png"]
    assert (results[-1].damaged, results[-1].skipped) == (1, 0)


def test_a_single_image_is_a_stream_of_one_result(classifier: edge.Classifier, folder: Path) -> None:
    [result] = classifier.stream(folder / "00.png")
    assert result.prediction == classifier.predict(folder / "00.png")


def test_a_result_gives_its_frame_while_it_is_current_and_refuses_afterwards(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    results, copies = [], []
    for result in classifier.stream(ArraySource(digits[:30])):
        copies.append(result.copy_frame())
        results.append(result)
    for result, frame, pixels in zip(results, copies, digits[:30], strict=True):
        assert frame.format is edge.PixelFormat.GRAY
        assert (frame.pixels == pixels).all()
        with pytest.raises(SourceError, match=f"frame {result.frame_index} is no longer"):
            result.copy_frame()
        with pytest.raises(SourceError, match=f"tensors of frame {result.frame_index} are no longer"):
            result.copy_tensors()


def test_the_tensors_of_a_result_are_those_of_its_frame(classifier: edge.Classifier, digits: NDArray[np.uint8]) -> None:
    for result in classifier.stream(ArraySource(digits[:20])):
        tensors = result.copy_tensors()
        k = result.exit_index
        assert tensors[f"label_{k}"][0] == result.label_index
        assert tensors[f"confidence_{k}"][0] == pytest.approx(result.confidence)
        assert tensors[f"logits_{k}"][0].argmax() == result.label_index


@pytest.mark.parametrize("way", ["break", "close", "error", "end", "source fails"])
def test_the_end_of_a_stream_closes_source_slots_and_threads_and_the_last_result(
    way: str, classifier: edge.Classifier, digits: NDArray[np.uint8], slots: SlotLog
) -> None:
    before = set(threading.enumerate())
    source = ArraySource(digits[:300], fails_at=30 if way == "source fails" else None)
    stream = classifier.stream(source)
    last = next(stream)
    if way == "break":
        for last in stream:
            if last.frame_index == 3:
                break
        del stream
    elif way == "close":
        stream.close()
    elif way == "error":
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)
    elif way == "end":
        last = list(stream)[-1]
        assert last.frame_index == 299
    else:
        with pytest.raises(SourceError, match="the camera was unplugged"):
            list(stream)
    assert source.is_closed
    assert len(slots.made) == MIN_SLOTS
    assert slots.closed == slots.made
    assert set(threading.enumerate()) <= before
    with pytest.raises(SourceError, match=f"frame {last.frame_index} is no longer"):
        last.copy_frame()


def test_frames_before_a_failure_of_the_source_are_yielded(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    labels: list[str] = []

    def collect() -> None:
        for result in classifier.stream(ArraySource(digits, fails_at=12)):
            labels.append(result.label)

    with pytest.raises(SourceError, match="the camera was unplugged"):
        collect()
    assert labels == [classifier.predict(pixels).label for pixels in digits[:12]]


def test_all_slots_are_prepared_before_the_source_opens(
    classifier: edge.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, new_slot = [], classifier.new_slot

    def recorded_slot() -> Any:
        order.append("slot")
        return new_slot()

    def refuse(address: str) -> None:
        order.append("source")
        raise SourceError("no such camera")

    monkeypatch.setattr(classifier, "new_slot", recorded_slot)
    monkeypatch.setattr("edge.inference.stream.open_source", refuse)
    with pytest.raises(SourceError, match="no such camera"):
        next(classifier.stream("0"))
    assert order[-1] == "source"
    assert order.count("slot") >= 4


def test_new_thresholds_apply_to_later_frames_of_a_stream(digits_bundle: Bundle, digits: NDArray[np.uint8]) -> None:
    with edge.load(digits_bundle.path, backend="onnxruntime", thresholds=[0, 0]) as classifier:
        exits = []
        for result in classifier.stream(ArraySource(digits[: 20 + MIN_SLOTS])):
            exits.append(result.exit_index)
            if result.frame_index == 9:
                classifier.thresholds = [NEVER, NEVER]
    assert exits[:10] == [0] * 10
    assert set(exits) == {0, 2}
    assert exits[10 + MIN_SLOTS :] == [2] * (len(exits) - 10 - MIN_SLOTS)


def test_a_missing_source_is_refused_when_the_stream_starts(classifier: edge.Classifier) -> None:
    with pytest.raises(SourceError, match=r"there is no video or folder nowhere\.avi"):
        next(classifier.stream("nowhere.avi"))


@pytest.mark.parametrize("source", [None, ["a.png"], 1.5, object()])
def test_an_object_that_is_not_a_source_is_refused(source: Any, classifier: edge.Classifier) -> None:
    message = f"{type(source).__name__} is not a source; give a name or number, or an object with `read`, `close`"
    with pytest.raises(SourceError, match=message):
        next(classifier.stream(source))
    with pytest.raises(SourceError, match=message):
        edge.open_source(source)


def test_an_unknown_policy_is_refused_and_the_source_closed(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    source, policy = ArraySource(digits), "newest"
    with pytest.raises(edge.EdgeError, match="unknown policy 'newest'; choose latest or all"):
        next(classifier.stream(source, policy=policy))  # type: ignore[arg-type]
    assert source.is_closed


def test_two_streams_of_one_classifier_run_at_the_same_time(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    expected = [classifier.predict(pixels) for pixels in digits[:50]]
    pairs = zip(
        classifier.stream(ArraySource(digits[:50])),
        classifier.stream(ArraySource(digits[:50][::-1])),
        strict=True,
    )
    predictions = [(first.prediction, second.prediction) for first, second in pairs]
    assert [first for first, _ in predictions] == expected
    assert [second for _, second in predictions] == expected[::-1]
