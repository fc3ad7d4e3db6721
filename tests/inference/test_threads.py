"""One classifier in several threads, on each backend that runs here: calls at once answer as one after the other.

Backends on a GPU are skipped without one: the stand-in for a GPU models a single thread and proves nothing here.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import edge
from edge.bundle.bundle import Bundle
from edge.cuda import get_runtime
from edge.engines import backend_named
from edge.errors import EdgeError
from tests.support.noisy_digits import noisy_digits


def unavailable_reason(name: str) -> str:
    """Return the reason why a backend cannot run here; empty where it can."""
    try:
        if backend_named(name).device == "cuda":
            get_runtime()
    except (EdgeError, ImportError) as error:
        return str(error)
    return ""


@pytest.fixture(
    params=[
        "onnxruntime",
        "onnxruntime with threads",
        "openvino",
        "openvino with threads",
        pytest.param("tensorrt", marks=[pytest.mark.gpu, pytest.mark.tensorrt]),
        pytest.param("tensorrt-rtx", marks=[pytest.mark.gpu, pytest.mark.tensorrt]),
    ]
)
def classifier(request: pytest.FixtureRequest, digits_bundle: Bundle) -> Iterator[edge.Classifier]:
    """Return a classifier on a backend, with thresholds at which every exit answers some frames."""
    name, _, with_threads = request.param.partition(" ")
    if reason := unavailable_reason(name):
        pytest.skip(f"{name} does not run here: {reason}")
    with edge.load(digits_bundle.path, backend=name, precision="fp32", threads=3 if with_threads else 1) as classifier:
        classifier.thresholds = (0.4, 0.5)
        yield classifier


@pytest.fixture
def frames(digits_bundle: Bundle) -> list[Any]:
    """Return digits with noise, all different."""
    return list(noisy_digits(digits_bundle, 250))


class Frames:
    """A source of frames."""

    is_live = False

    def __init__(self, frames: Sequence[Any]) -> None:
        self.frames: int | None = len(frames)
        self._left = list(frames)

    def read(self, out: edge.Frame | None) -> edge.Frame | None:
        if not self._left:
            return None
        frame = self._left.pop(0)
        return frame if isinstance(frame, edge.Frame) else edge.Frame(frame, edge.PixelFormat.GRAY)

    def close(self) -> None:
        """Nothing to release."""


def single(classifier: edge.Classifier, frames: Sequence[Any]) -> list[edge.Prediction]:
    return [classifier.predict(frame) for frame in frames]


def stream(classifier: edge.Classifier, frames: Sequence[Any]) -> list[edge.Prediction]:
    return [result.prediction for result in classifier.stream(Frames(frames))]


def sibling(classifier: edge.Classifier, frames: Sequence[Any]) -> list[edge.Prediction]:
    """Predict with another classifier on the same engines."""
    with classifier.with_thresholds(classifier.thresholds) as other:
        return [other.predict(frame) for frame in frames]


def batch(classifier: edge.Classifier, frames: Sequence[Any]) -> list[edge.Prediction]:
    return classifier.predict_batch(frames)


def decisions(predictions: Sequence[edge.Prediction]) -> list[tuple[int, int]]:
    return [(prediction.label_index, prediction.exit_index) for prediction in predictions]


def check(classifier: edge.Classifier, frames: Sequence[Any], calls: Sequence[Callable[..., Any]]) -> None:
    """Make all calls at once on frames that differ, and compare them with single predictions in order."""
    parts = [[*frames[shift:], *frames[:shift]] for shift in range(len(calls))]
    expected = [single(classifier, part) for part in parts]
    assert {prediction.exit_index for prediction in expected[0]} > {0}
    start = threading.Barrier(len(calls))

    def run(call: Callable[..., Any], part: Sequence[Any]) -> list[edge.Prediction]:
        start.wait()
        return list(call(classifier, part))

    with ThreadPoolExecutor(len(calls)) as pool:
        results = list(pool.map(run, calls, parts))
    for call, result, wanted in zip(calls, results, expected, strict=True):
        assert decisions(result) == decisions(wanted), call.__name__
        if call is not batch:  # whose probabilities may differ by rounding
            assert result == wanted, call.__name__


@pytest.mark.parametrize("calls", [[single] * 2, [single] * 8, [single, stream, stream, sibling, batch, batch]])
def test_calls_in_several_threads_answer_as_one_after_the_other(
    calls: list[Callable[..., Any]], classifier: edge.Classifier, frames: list[Any]
) -> None:
    check(classifier, frames, calls)


def test_closing_during_calls_in_other_threads_gives_predictions_or_an_error(
    classifier: edge.Classifier, frames: list[Any]
) -> None:
    expected = decisions(single(classifier, frames))
    start = threading.Barrier(5)

    def run(_: int) -> list[tuple[int, int]]:
        start.wait()
        answered: list[edge.Prediction] = []
        try:
            for frame in frames:
                answered.append(classifier.predict(frame))
        except EdgeError as error:
            assert "the classifier was closed; load it again" in str(error)  # noqa: PT017
        return decisions(answered)

    with ThreadPoolExecutor(5) as pool:
        parts = pool.map(run, range(4))
        start.wait()
        classifier.close()
        for part in parts:
            assert part == expected[: len(part)]
