"""Temperatures calibrate probabilities, change no label, and are applied at the exit that answers."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.temperature import MAX_TEMPERATURE, fit_temperatures
from edge.bundle import tensors
from edge.bundle.bundle import Bundle
from edge.cli.main import main as edge
from edge.engines.base import Engine
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.frames.base import frame_from_array
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier
from tests.support.commands import call, json_lines, random_frames, write_video

Logits = NDArray[np.float32]
CLASSES = 5


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def drawn(temperature: float, samples: int, seed: int = 0, spread: float = 3.0) -> tuple[Logits, NDArray[np.int64]]:
    """Return logits of one exit, and labels drawn with the probabilities `softmax(logits / temperature)`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, spread * temperature, (samples, CLASSES))
    cumulative = softmax(logits / temperature).cumsum(axis=1)
    return logits.astype(np.float32), (generator.random((samples, 1)) > cumulative).sum(axis=1).clip(max=CLASSES - 1)


def nll(logits: Logits, truth: NDArray[np.int64], temperature: float) -> float:
    """Return the mean negative log likelihood."""
    likelihood = softmax(logits.astype(np.float64) / temperature)[np.arange(len(truth)), truth]
    return float(-np.log(likelihood).mean())


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.5, 10.0])
def test_the_true_temperature_is_recovered(temperature: float) -> None:
    logits, truth = drawn(temperature, 50_000)
    assert fit_temperatures(logits[None], truth) == (pytest.approx(temperature, rel=0.03),)


def test_each_exit_has_its_own_temperature() -> None:
    logits, truth = drawn(1.0, 20_000)
    first, second, third = fit_temperatures(np.stack([logits * 4, logits, logits / 4]), truth)
    assert second == pytest.approx(1, rel=0.05)
    assert first == pytest.approx(4 * second, rel=1e-4)
    assert third == pytest.approx(second / 4)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_temperature_has_a_lower_nll(seed: int) -> None:
    logits, truth = drawn(2.0, 40, seed, spread=1.0)
    (temperature,) = fit_temperatures(logits[None], truth)
    assert 1 / MAX_TEMPERATURE < temperature < MAX_TEMPERATURE
    lowest = nll(logits, truth, temperature)
    others = temperature * np.geomspace(0.01, 100, 400)
    assert all(lowest <= nll(logits, truth, other) + 1e-12 for other in others)


def test_fitted_temperatures_change_no_label() -> None:
    logits = np.stack([drawn(temperature, 500)[0] for temperature in (0.03, 1.0, 30.0)])
    temperatures = fit_temperatures(logits, drawn(1.0, 500)[1])
    scaled = logits * np.float32(1 / np.array(temperatures))[:, None, None]
    np.testing.assert_array_equal(scaled.argmax(axis=-1), logits.argmax(axis=-1))


TRUTH = np.arange(60) % CLASSES
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[TRUTH]


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        pytest.param(0.5 * ONE_HOT, 1 / MAX_TEMPERATURE, id="all right: lowest temperature"),
        pytest.param(50 * ONE_HOT, None, id="all right by a wide margin"),
        pytest.param(-5 * ONE_HOT, MAX_TEMPERATURE, id="all wrong: highest temperature"),
        pytest.param(np.zeros((60, CLASSES)), None, id="all equal"),
        pytest.param(np.full((60, CLASSES), -3e38), None, id="all equal and huge"),
        pytest.param(3e38 * ONE_HOT, None, id="huge and right"),
        pytest.param(-3e38 * ONE_HOT, MAX_TEMPERATURE, id="huge and wrong"),
        pytest.param(3e38 * (2 * ONE_HOT - 1), None, id="largest float32 difference"),
        pytest.param(1e-38 * ONE_HOT, None, id="tiny and right"),
    ],
)
def test_extreme_logits_have_a_finite_temperature(logits: NDArray[np.float64], expected: float | None) -> None:
    (temperature,) = fit_temperatures(logits[None].astype(np.float32), TRUTH)
    assert 0 < temperature < np.inf
    assert 1 / np.float32(temperature) > 0
    if expected is not None:
        assert temperature == pytest.approx(expected, rel=1e-3)


def test_a_single_sample_or_class_has_a_finite_temperature() -> None:
    assert 0 < fit_temperatures(np.ones((1, 1, CLASSES), np.float32), np.zeros(1, np.int64))[0] < np.inf
    assert 0 < fit_temperatures(np.ones((1, 9, 1), np.float32), np.zeros(9, np.int64))[0] < np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_with_non_finite_logits_do_not_affect_the_temperature(value: float) -> None:
    logits, truth = drawn(2.0, 2000)
    (expected,) = fit_temperatures(logits[None], truth)
    logits[7] = value
    assert fit_temperatures(logits[None], truth) == (pytest.approx(expected, rel=0.02),)


# Probabilities of predictions


class OverwrittenLogits:
    """An engine whose logits are overwritten after each run, while `logits` is set."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.logits: list[float] | None = None
        self._engine, self._name = engine, name

    def bind(self, arrays: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        run = self._engine.bind(arrays)

        def run_and_overwrite() -> None:
            run()
            if self.logits is not None:
                arrays[self._name][0] = self.logits

        return run_and_overwrite


def engines_of(bundle: Bundle) -> list[Any]:
    return load_engines(bundle.path, bundle.precision("fp32").segments, OnnxRuntime())


def classifier_at(bundle: Bundle, temperatures: tuple[float, ...], *engines: object) -> Classifier:
    """Return a classifier that always takes the first exit, on the bundle's engines unless others are given."""
    chain = dataclasses.replace(bundle.chain("fp32"), temperatures=temperatures)
    return Classifier(chain, engines or engines_of(bundle), (0.0, 0.0))


@pytest.mark.parametrize(
    ("thresholds", "exit_index"), [((0.0, 0.0), 0), ((2.0, 0.0), 1), ((2.0, 2.0), 2)], ids=["first", "second", "last"]
)
@pytest.mark.parametrize("temperatures", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0), (0.02, 50.0, 0.02)])
def test_the_probability_is_the_softmax_at_the_answering_exits_temperature(
    temperatures: tuple[float, ...], thresholds: tuple[float, float], exit_index: int, digits_bundle: Bundle
) -> None:
    slot = classifier_at(digits_bundle, temperatures).new_slot()
    for pixels in digits_bundle.reference().frames[:20]:
        slot.start(frame_from_array(pixels, "image"), np.array(thresholds, dtype=np.float32))
        prediction = slot.result()
        assert prediction.exit_index == exit_index
        logits = slot.tensors()[tensors.logits(exit_index)][0].astype(np.float64)
        expected = softmax(logits / temperatures[exit_index])
        assert prediction.probability == pytest.approx(expected[prediction.label_index], rel=1e-4)
        assert prediction.label_index == expected.argmax()
        if temperatures[exit_index] == 1:
            assert prediction.probability == pytest.approx(prediction.confidence, rel=1e-5)


def test_a_compiled_bundle_has_temperatures_that_lower_the_nll(digits_bundle: Bundle) -> None:
    for name, precision in digits_bundle.manifest.precisions.items():
        recorded = digits_bundle.scores(name)
        assert precision.temperatures == pytest.approx(fit_temperatures(recorded.logits, recorded.truth), rel=1e-6)
        for logits, temperature in zip(recorded.logits, precision.temperatures, strict=True):
            assert abs(temperature - 1) > 0.01
            assert nll(logits, recorded.truth, temperature) < nll(logits, recorded.truth, 1.0)


def test_edge_run_prints_both_probability_and_confidence(digits_bundle: Bundle, tmp_path: Path) -> None:
    frames = random_frames(8)
    video = write_video(tmp_path / "video.avi", frames)
    result = call(edge, "run", digits_bundle.path, "--source", video, "--precision", "fp32", "--json")
    classifier = load_classifier(digits_bundle, "fp32", OnnxRuntime())
    expected = [pytest.approx(classifier.predict(frame).probability, abs=1e-6) for frame in frames]
    lines = json_lines(result.stdout)
    assert [line["probability"] for line in lines] == expected
    assert all(line["probability"] != line["confidence"] for line in lines)


def test_the_temperature_does_not_modify_the_logits(digits_bundle: Bundle) -> None:
    frame = frame_from_array(digits_bundle.reference().frames[0], "image")
    hot, plain = (classifier_at(digits_bundle, (temperature,) * 3).new_slot() for temperature in (7.0, 1.0))
    for slot in (hot, plain):
        slot.start(frame, np.zeros(2, dtype=np.float32))
    assert hot.result().probability < plain.result().probability
    np.testing.assert_array_equal(hot.tensors()[tensors.logits(0)], plain.tensors()[tensors.logits(0)])


@pytest.mark.parametrize("temperature", [0.02, 1.0, 50.0])
@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        pytest.param([np.nan] * 10, np.nan, id="NaN"),
        pytest.param([np.nan, *[1.0] * 9], np.nan, id="one NaN"),
        pytest.param([np.inf, *[1.0] * 9], np.nan, id="infinite"),
        pytest.param([np.inf] * 10, np.nan, id="all infinite"),
        pytest.param([-np.inf] * 10, np.nan, id="all minus infinite"),
        pytest.param([-np.inf, *[0.0] * 9], 1 / 9, id="one minus infinite"),
        pytest.param([np.nan, np.inf, -np.inf, *[0.0] * 7], np.nan, id="each kind"),
        pytest.param([3e38, *[0.0] * 9], 1.0, id="huge"),
        pytest.param([3e38, *[-3e38] * 9], 1.0, id="largest float32 difference"),
        pytest.param([-3e38] * 10, 0.1, id="all equal and huge"),
    ],
)
def test_extreme_logits_have_the_softmax_probability_or_nan(
    logits: list[float], expected: float, temperature: float, digits_bundle: Bundle
) -> None:
    """And cause no warning, which would fail this test."""
    first, *others = engines_of(digits_bundle)
    overwritten = OverwrittenLogits(first, tensors.logits(0))
    overwritten.logits = logits
    prediction = classifier_at(digits_bundle, (temperature,) * 3, overwritten, *others).predict(
        digits_bundle.reference().frames[0]
    )
    assert prediction.exit_index == 0
    assert prediction.probability == pytest.approx(expected, nan_ok=True)


def test_nan_logits_do_not_affect_the_next_frame(digits_bundle: Bundle) -> None:
    frame = digits_bundle.reference().frames[0]
    first, *others = engines_of(digits_bundle)
    overwritten = OverwrittenLogits(first, tensors.logits(0))
    classifier = classifier_at(digits_bundle, (2.0,) * 3, overwritten, *others)
    expected = classifier.predict(frame)
    overwritten.logits = [np.nan] * 10
    assert np.isnan(classifier.predict(frame).probability)
    overwritten.logits = None
    assert classifier.predict(frame) == expected
