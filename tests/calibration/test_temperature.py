"""Temperatures make probabilities honest, change no answer, and are used where a frame is answered."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.temperature import MAX_TEMPERATURE, fit_temperatures
from edge.bundle.bundle import Bundle
from edge.cli.main import main as edge
from edge.decision import Prediction
from edge.engines.onnxruntime import OnnxRuntime
from edge.inference.classifier import Classifier
from edge.inference.host import HostSlot
from edge.inference.load import load_classifier
from tests.support.commands import call, json_lines, random_frames, write_video

Logits = NDArray[np.float32]
CLASSES = 5


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def drawn(temperature: float, samples: int, seed: int = 0, spread: float = 3.0) -> tuple[Logits, NDArray[np.int64]]:
    """Return logits of one exit, and labels that are as likely as `softmax(logits / temperature)` says."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, spread * temperature, (samples, CLASSES))
    cumulated = softmax(logits / temperature).cumsum(axis=1)
    return logits.astype(np.float32), (generator.random((samples, 1)) > cumulated).sum(axis=1).clip(max=CLASSES - 1)


def surprise(logits: Logits, truth: NDArray[np.int64], temperature: float) -> float:
    """Return the mean negative log likelihood."""
    likelihood = softmax(logits.astype(np.float64) / temperature)[np.arange(len(truth)), truth]
    return float(-np.log(likelihood).mean())


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.5, 10.0])
def test_the_temperature_labels_were_drawn_at_is_found_again(temperature: float) -> None:
    logits, truth = drawn(temperature, 50_000)
    assert fit_temperatures(logits[None], truth) == (pytest.approx(temperature, rel=0.03),)


def test_every_exit_has_its_own() -> None:
    logits, truth = drawn(1.0, 20_000)
    found = fit_temperatures(np.stack([logits * 4, logits, logits / 4]), truth)
    assert found == (pytest.approx(4 * found[1], rel=1e-4), pytest.approx(1, rel=0.05), pytest.approx(found[1] / 4))


@pytest.mark.parametrize("seed", range(5))
def test_no_other_temperature_makes_the_labels_likelier(seed: int) -> None:
    logits, truth = drawn(2.0, 40, seed, spread=1.0)
    (found,) = fit_temperatures(logits[None], truth)
    assert 1 / MAX_TEMPERATURE < found < MAX_TEMPERATURE
    best = surprise(logits, truth, found)
    others = found * np.geomspace(0.01, 100, 400)
    assert all(best <= surprise(logits, truth, other) + 1e-12 for other in others)


def test_no_temperature_that_is_fitted_changes_an_answer() -> None:
    logits = np.stack([drawn(temperature, 500)[0] for temperature in (0.03, 1.0, 30.0)])
    temperatures = fit_temperatures(logits, drawn(1.0, 500)[1])
    scaled = logits * np.float32(1 / np.array(temperatures))[:, None, None]
    np.testing.assert_array_equal(scaled.argmax(axis=-1), logits.argmax(axis=-1))


TRUTH = np.arange(60) % CLASSES
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[TRUTH]


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        pytest.param(0.5 * ONE_HOT, 1 / MAX_TEMPERATURE, id="all right: as cold as it gets"),
        pytest.param(50 * ONE_HOT, None, id="all right, by far"),
        pytest.param(-5 * ONE_HOT, MAX_TEMPERATURE, id="all wrong: as hot as it gets"),
        pytest.param(np.zeros((60, CLASSES)), None, id="all alike"),
        pytest.param(np.full((60, CLASSES), -3e38), None, id="all alike and huge"),
        pytest.param(3e38 * ONE_HOT, None, id="huge and right"),
        pytest.param(-3e38 * ONE_HOT, MAX_TEMPERATURE, id="huge and wrong"),
        pytest.param(3e38 * (2 * ONE_HOT - 1), None, id="as far apart as floats are"),
        pytest.param(1e-38 * ONE_HOT, None, id="tiny and right"),
    ],
)
def test_extreme_logits_have_a_temperature_too(logits: NDArray[np.float64], expected: float | None) -> None:
    (found,) = fit_temperatures(logits[None].astype(np.float32), TRUTH)
    assert 0 < found < np.inf
    assert 1 / np.float32(found) > 0
    if expected is not None:
        assert found == pytest.approx(expected, rel=1e-3)


def test_of_one_sample_and_one_class_there_is_a_temperature_too() -> None:
    assert 0 < fit_temperatures(np.ones((1, 1, CLASSES), np.float32), np.zeros(1, np.int64))[0] < np.inf
    assert 0 < fit_temperatures(np.ones((1, 9, 1), np.float32), np.zeros(9, np.int64))[0] < np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_without_numbers_does_not_disturb_the_temperature(value: float) -> None:
    """As it does not disturb thresholds: its confidence is none, and it goes on."""
    logits, truth = drawn(2.0, 2000)
    (expected,) = fit_temperatures(logits[None], truth)
    logits[7] = value
    assert fit_temperatures(logits[None], truth) == (pytest.approx(expected, rel=0.02),)


# Where a frame is answered


def heated(bundle: Bundle, temperatures: tuple[float, ...], thresholds: tuple[float, float]) -> Classifier:
    """Return a bundle's classifier at temperatures and thresholds of the test's choice."""
    fitted = load_classifier(bundle, "fp32", OnnxRuntime())
    precision = dataclasses.replace(fitted.precision, temperatures=temperatures)
    return Classifier(
        input_spec=fitted.input_spec, precision=precision, engines=fitted.engines, thresholds=list(thresholds)
    )


def answered(slot: HostSlot, frame: NDArray[np.uint8]) -> Prediction:
    slot.frame = frame
    slot.load()
    return slot.infer()


@pytest.mark.parametrize(
    ("thresholds", "exit_index"), [((0.0, 0.0), 0), ((2.0, 0.0), 1), ((2.0, 2.0), 2)], ids=["first", "second", "last"]
)
@pytest.mark.parametrize("temperatures", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0), (0.02, 50.0, 0.02)])
def test_the_probability_is_softmax_at_the_temperature_of_the_exit_that_answers(
    temperatures: tuple[float, ...], thresholds: tuple[float, float], exit_index: int, digits_bundle: Bundle
) -> None:
    slot = heated(digits_bundle, temperatures, thresholds).new_slot()
    for frame in digits_bundle.reference().frames[:20]:
        found = answered(slot, frame)
        assert found.exit_index == exit_index
        logits = slot.tensors[f"logits_{exit_index}"][0].astype(np.float64)
        expected = softmax(logits / temperatures[exit_index])
        assert found.probability == pytest.approx(expected[found.label], rel=1e-4)
        assert found.label == expected.argmax()
        if temperatures[exit_index] == 1:
            assert found.probability == pytest.approx(found.confidence, rel=1e-5)


def test_a_bundle_comes_with_temperatures_that_make_its_probabilities_likelier_than_its_confidence(
    digits_bundle: Bundle,
) -> None:
    for name, precision in digits_bundle.manifest.precisions.items():
        found = digits_bundle.scores(name)
        assert precision.temperatures == fit_temperatures(found.logits, found.truth)
        for logits, temperature in zip(found.logits, precision.temperatures, strict=True):
            assert abs(temperature - 1) > 0.01
            assert surprise(logits, found.truth, temperature) < surprise(logits, found.truth, 1.0)


def test_edge_run_prints_the_probability_beside_the_confidence(digits_bundle: Bundle, tmp_path: Path) -> None:
    frames = random_frames(8)
    video = write_video(tmp_path / "video.avi", frames)
    result = call(edge, "run", digits_bundle.path, "--source", video, "--precision", "fp32", "--json")
    classifier = load_classifier(digits_bundle, "fp32", OnnxRuntime())
    expected = [classifier.classify(frame) for frame in frames]
    lines = json_lines(result.stdout)
    assert [line["probability"] for line in lines] == [pytest.approx(one.probability, abs=1e-6) for one in expected]
    assert all(line["probability"] != line["confidence"] for line in lines)


def test_answering_leaves_the_logits_as_the_engine_wrote_them(digits_bundle: Bundle) -> None:
    frame = digits_bundle.reference().frames[0]
    hot, plain = (heated(digits_bundle, (t,) * 3, (0.0, 0.0)).new_slot() for t in (7.0, 1.0))
    assert answered(hot, frame).probability < answered(plain, frame).probability
    np.testing.assert_array_equal(hot.tensors["logits_0"], plain.tensors["logits_0"])


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
        pytest.param([np.nan, np.inf, -np.inf, *[0.0] * 7], np.nan, id="one of each"),
        pytest.param([3e38, *[0.0] * 9], 1.0, id="huge"),
        pytest.param([3e38, *[-3e38] * 9], 1.0, id="as far apart as floats are"),
        pytest.param([-3e38] * 10, 0.1, id="all alike and huge"),
    ],
)
def test_logits_beyond_all_measure_have_their_probability_or_none(
    logits: list[float], expected: float, temperature: float, digits_bundle: Bundle
) -> None:
    """A warning would fail this test."""
    slot = heated(digits_bundle, (temperature,) * 3, (0.0, 0.0)).new_slot()
    steps = iter(slot._steps)

    def broken() -> None:
        next(steps)()
        slot.tensors["logits_0"][0] = logits

    slot._steps = [broken]
    found = answered(slot, digits_bundle.reference().frames[0])
    assert found.exit_index == 0
    assert found.probability == pytest.approx(expected, nan_ok=True)


def test_an_answer_without_a_number_does_not_spoil_the_next(digits_bundle: Bundle) -> None:
    frame = digits_bundle.reference().frames[0]
    slot = heated(digits_bundle, (2.0,) * 3, (0.0, 0.0)).new_slot()
    expected, step = answered(slot, frame), slot._steps[0]

    def broken() -> None:
        step()
        slot.tensors["logits_0"][:] = np.nan

    slot._steps[0] = broken
    assert np.isnan(answered(slot, frame).probability)
    slot._steps[0] = step
    assert answered(slot, frame) == expected
