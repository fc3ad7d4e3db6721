"""Rejection at run time: the same rule in every way to run a bundle, and none where raw outputs are compared."""

import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from edge.bundle.bundle import Bundle
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import Rejection
from edge.decision import Decisions, accepted, decide
from edge.engines import backend_named
from edge.frames.base import frame_from_array
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.parity.compare import verify
from tests.support.front_door import ArraySource, assert_equal_predictions
from tests.support.networks import INPUT, compiled, write_precision


def rejection_below(threshold: float) -> Rejection:
    return Rejection(threshold, 0.02, 0.95, "betting", 0.9, 100, "s")


class Rejecting:
    """A bundle that rejects some of the reference samples, and their raw scores."""

    def __init__(self, source: Bundle, path: Path) -> None:
        self.frames = source.reference().frames[:200]
        with load_classifier(source, "fp32", backend_named("onnxruntime")) as classifier:
            frames = [frame_from_array(pixels, "image") for pixels in self.frames]
            self.scores = record(classifier, frames).scores
        self.thresholds = np.quantile(self.scores.confidence[:-1], 0.6, axis=1).astype(np.float32)
        decisions = decide(self.scores, self.thresholds)
        reaching = decisions.confidence[decisions.exit_index == len(self.thresholds)]
        self.threshold = np.sort(reaching)[len(reaching) // 2]
        spec = dataclasses.replace(source.precision("fp32"), rejection=rejection_below(float(self.threshold)))
        self.bundle = Bundle.open(Path(shutil.copytree(source.path, path))).with_precisions({"fp32": spec})

    def expected(self) -> tuple[Decisions, NDArray[np.bool_]]:
        """Return the reference's decisions, and those that are accepted."""
        decisions = decide(self.scores, self.thresholds)
        [is_accepted] = accepted(decisions, len(self.thresholds), self.threshold[None], self.bundle.manifest.labels)
        return decisions, is_accepted


@pytest.fixture(scope="module")
def rejecting(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Rejecting:
    return Rejecting(digits_bundle, tmp_path_factory.mktemp("rejecting") / "bundle")


@pytest.fixture(scope="module")
def classifier(rejecting: Rejecting) -> Iterator[edge.Classifier]:
    path, thresholds = rejecting.bundle.path, rejecting.thresholds
    with edge.load(path, backend="onnxruntime", precision="fp32", thresholds=thresholds) as classifier:
        yield classifier


def test_predictions_are_none_where_the_reference_does_not_accept_them(
    rejecting: Rejecting, classifier: edge.Classifier
) -> None:
    decisions, is_accepted = rejecting.expected()
    assert 10 < (~is_accepted).sum() < 100
    predictions = [classifier.predict(pixels) for pixels in rejecting.frames]
    for index, prediction in enumerate(predictions):
        name = rejecting.bundle.manifest.labels[decisions.label[index]]
        expected = (name, decisions.label[index]) if is_accepted[index] else ("none", -1)
        assert (prediction.label, prediction.label_index) == expected
        assert (prediction.exit_index, prediction.confidence) == (
            decisions.exit_index[index], decisions.confidence[index],
        )  # fmt: skip
        assert 0 < prediction.probability <= 1
    assert_equal_predictions(classifier.predict_batch(rejecting.frames), predictions)
    results = list(classifier.stream(ArraySource(rejecting.frames)))
    assert [result.prediction for result in results] == predictions
    assert [result.label for result in results] == [prediction.label for prediction in predictions]


def test_the_classifier_gives_its_rejection(rejecting: Rejecting, classifier: edge.Classifier) -> None:
    assert classifier.rejection == rejecting.bundle.precision("fp32").rejection
    assert classifier.with_thresholds(rejecting.thresholds).rejection == classifier.rejection
    assert rejecting.bundle.whole_network("fp32").rejection is None


def test_parity_and_recorded_scores_ignore_the_rejection(rejecting: Rejecting, classifier: edge.Classifier) -> None:
    frames = [frame_from_array(pixels, "image") for pixels in rejecting.frames]
    recorded = record(classifier, frames).scores
    np.testing.assert_array_equal(recorded.label, rejecting.scores.label)
    [parity] = verify(rejecting.bundle, "fp32", [backend_named("onnxruntime")])
    assert parity.passed


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> ChainSpec:
    """Return a chain of three exits with a class for objects of no class."""
    spec = write_precision(tmp_path_factory.mktemp("chain") / "bundle", compiled("tiny cnn", "fp32"), "fp32")
    return ChainSpec(INPUT, ("a", "none", "unknown", "b"), spec.segments, spec.temperatures)


def test_each_prediction_follows_the_reference_at_ties_and_nan(chain: ChainSpec) -> None:
    half = float(np.float32(0.6))
    above = float(np.nextafter(np.float32(half), np.float32(1)))
    rejecting = dataclasses.replace(chain, rejection=rejection_below(half))
    confidences = np.array([0.0, np.nextafter(np.float32(half), np.float32(0)), half, above, 1.0, math.nan], np.float32)
    for exit_index in range(3):
        for label in range(4):
            decisions = Decisions(np.full(6, exit_index), confidences, np.full(6, label, np.int32))
            [is_accepted] = accepted(decisions, 2, np.array([half], np.float32), chain.labels)
            for confidence, expected in zip(confidences.tolist(), is_accepted, strict=True):
                prediction = rejecting.prediction(label, 0.5, exit_index, confidence)
                assert (prediction.label_index == label) == expected
                assert (prediction.label != "none") == expected
            assert is_accepted.tolist() == [label in (0, 3) and is_sure for is_sure in (
                exit_index < 2, exit_index < 2, True, True, True, exit_index < 2
            )]  # fmt: skip


def test_without_a_rejection_a_class_called_none_is_a_class_like_any_other(chain: ChainSpec) -> None:
    assert chain.prediction(1, 0.5, 2, 0.1) == ("none", 1, 0.5, 2, 0.1)
    assert chain.prediction(2, 0.5, 2, math.nan)[:2] == ("unknown", 2)


def test_a_classifier_of_the_last_exit_answers_however_unsure_it_is(
    classifier: edge.Classifier, rejecting: Rejecting
) -> None:
    with classifier.to_last_exit() as whole:
        predictions = [whole.predict(pixels) for pixels in rejecting.frames]
    assert [prediction.label_index for prediction in predictions] == rejecting.scores.label[-1].tolist()
    assert {prediction.exit_index for prediction in predictions} == {len(rejecting.thresholds)}


def test_a_classifier_of_the_last_exit_still_rejects_the_class_of_unknown_objects(
    classifier: edge.Classifier, rejecting: Rejecting
) -> None:
    labels = ("none", *classifier.chain.labels[1:])
    chain = dataclasses.replace(classifier.chain, labels=labels)
    with classifier._with(chain, classifier.thresholds).to_last_exit() as whole:
        predicted = [whole.predict(pixels).label_index for pixels in rejecting.frames]
    assert predicted == [index or -1 for index in rejecting.scores.label[-1].tolist()]
