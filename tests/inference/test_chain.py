"""Equivalence: the chain of engines answers every frame as the whole network decided by `edge.decision`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from compile.contents import write_segment
from compile.cut import Segment, cut_segments
from compile.decision_ops import add_decisions
from compile.export import export_onnx
from compile.graph import MultiExitGraph
from compile.precisions import convert
from compile.quantise import METHODS
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle import tensors
from edge.bundle.bundle import Bundle
from edge.bundle.manifest import InputSpec, PrecisionSpec
from edge.decision import NEVER, Prediction, Scores, decide, scores_from_logits
from edge.engines.base import Engine
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.frames.base import Frame, frame_from_array
from edge.frames.preprocess import preprocess_batch
from edge.inference.classifier import Classifier
from edge.inference.record import record, record_parallel
from edge.training.checkpoint import Checkpoint
from tests.support.networks import (
    INPUT,
    PRECISIONS,
    Compiled,
    classifier_of,
    compiled,
    multi_exit_graph,
    random_images,
    with_nan_logit,
    write_precision,
)

each_precision = pytest.mark.parametrize("precision", PRECISIONS)


class Case(NamedTuple):
    """A network as a classifier, and its whole graph's outputs for some frames."""

    classifier: Classifier
    fitted: tuple[float, ...]
    whole: Engine
    """The whole multi-exit graph, every exit and its decision, as one engine."""
    frames: Sequence[Frame]
    images: NDArray[np.float32]
    logits: NDArray[np.float32]
    scores: Scores


def case_of(
    bundle: Path,
    folder: Path,
    spec: PrecisionSpec,
    input_spec: InputSpec,
    whole: MultiExitGraph,
    frames: Sequence[Frame],
) -> Case:
    """Build engines from a bundle's files, and one in `folder` from the graph they were cut from."""
    classifier = classifier_of(bundle, spec, OnnxRuntime(), input_spec)
    images = preprocess_batch(frames, input_spec)
    engine = whole_engine(folder, whole)
    logits, scores = outputs_of(engine, images, len(spec.segments))
    return Case(classifier, spec.thresholds.values, engine, frames, images, logits, scores)


def whole_engine(folder: Path, whole: MultiExitGraph) -> Engine:
    spec = write_segment(folder, "multi_exit.onnx", Segment(whole.model, exit_index=whole.exits - 1))
    [engine] = load_engines(folder, [spec], OnnxRuntime())
    return engine


def outputs_of(whole: Engine, images: NDArray[np.float32], exits: int) -> tuple[NDArray[np.float32], Scores]:
    """Return the whole graph's logits and scores at every exit, image by image."""
    thresholds = {tensors.threshold(k): np.array([NEVER], np.float32) for k in range(exits - 1)}
    outputs = [whole.run({tensors.IMAGE: image[None], **thresholds}) for image in images]

    def stacked(name: Callable[[int], str]) -> NDArray[Any]:
        return np.stack([[output[name(k)][0] for output in outputs] for k in range(exits)])

    return stacked(tensors.logits), Scores(stacked(tensors.confidence), stacked(tensors.label))


def bits(exit_index: Any, confidence: Any, label: Any) -> list[tuple[int, bytes, int]]:
    """Return answers in a form in which NaN equals itself and no rounding hides."""
    values = np.asarray(confidence, dtype=np.float32)
    return [(int(e), c.tobytes(), int(n)) for e, c, n in zip(exit_index, values, label, strict=True)]


def bits_of(predictions: Sequence[Prediction]) -> list[tuple[int, bytes, int]]:
    _, labels, _, exits, confidences = zip(*predictions, strict=True)
    return bits(exits, confidences, labels)


def expected_bits(case: Case) -> list[tuple[int, bytes, int]]:
    return bits(*decide(case.scores, np.array(case.classifier.thresholds, np.float32)))


def predict_each(case: Case) -> list[tuple[int, bytes, int]]:
    return bits_of([case.classifier.predict(frame) for frame in case.frames])


def predict_all(case: Case) -> list[tuple[int, bytes, int]]:
    return bits_of(case.classifier.predict_batch(case.frames))


@pytest.fixture(scope="module")
def trained(digits_checkpoint: Checkpoint) -> TrainedModel:
    return load_trained_model(digits_checkpoint)


@pytest.fixture(scope="module")
def exported(digits_checkpoint: Checkpoint) -> MultiExitGraph:
    return export_onnx(digits_checkpoint.network(), digits_checkpoint.input)


@pytest.fixture(scope="module", params=PRECISIONS)
def digits(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    digits_bundle: Bundle,
    trained: TrainedModel,
    exported: MultiExitGraph,
) -> Case:
    """Every test image of the digits, and the whole graph compiled again from the checkpoint."""
    spec = digits_bundle.precision(request.param)
    graph = exported if request.param == "fp32" else convert("int8", exported, trained, METHODS[0]).graph
    return case_of(
        digits_bundle.path,
        tmp_path_factory.mktemp("whole"),
        spec,
        digits_bundle.manifest.input,
        add_decisions(graph),
        list(trained.frames("test")),
    )


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[[Compiled, str], Case]:
    """Return a function that makes a case of a tiny network."""

    def make(network: Compiled, precision: str) -> Case:
        spec = write_precision(tmp_path / "bundle", network, precision)
        frames = [frame_from_array(image, "array") for image in random_images(12)]
        return case_of(tmp_path / "bundle", tmp_path, spec, INPUT, network.whole, frames)

    return make


def fitted(case: Case) -> list[float]:
    return list(case.fitted)


def always(case: Case) -> list[float]:
    return [0.0] * (case.classifier.chain.exits - 1)


def never(case: Case) -> list[float]:
    return [NEVER] * (case.classifier.chain.exits - 1)


def median(case: Case) -> list[float]:
    """Return each exit's median confidence, which one frame has exactly."""
    early = case.scores.confidence[:-1]
    return np.sort(early, axis=1)[:, early.shape[1] // 2].tolist()


def just_above_median(case: Case) -> list[float]:
    return np.nextafter(np.array(median(case), np.float32), np.float32(2)).tolist()


each_thresholds = pytest.mark.parametrize("thresholds", [fitted, always, never, median, just_above_median])


@each_thresholds
def test_stepwise_answers_equal_those_of_the_whole_network(
    digits: Case, thresholds: Callable[[Case], list[float]]
) -> None:
    digits.classifier.thresholds = thresholds(digits)
    assert predict_each(digits) == expected_bits(digits)


@each_thresholds
@pytest.mark.parametrize("batch", [1, 2, 7, None])
def test_batched_answers_equal_those_of_the_whole_network(
    digits: Case, thresholds: Callable[[Case], list[float]], batch: int | None
) -> None:
    digits.classifier.thresholds = thresholds(digits)
    size = batch or len(digits.frames)
    parts = [digits.frames[start : start + size] for start in range(0, len(digits.frames), size)]
    predictions = [prediction for part in parts for prediction in digits.classifier.predict_batch(part)]
    assert bits_of(predictions) == expected_bits(digits)


def test_median_thresholds_use_all_exits(digits: Case) -> None:
    """Otherwise the tests above would compare less than they seem to."""
    assert set(decide(digits.scores, np.array(median(digits), np.float32)).exit_index) == {0, 1, 2}


def test_a_confidence_equal_to_the_threshold_exits_and_the_next_float32_does_not(digits: Case) -> None:
    exact, above = (
        decide(digits.scores, np.array(limit, np.float32)) for limit in (median(digits), just_above_median(digits))
    )
    frame = int(np.argmax(digits.scores.confidence[0] == np.float32(median(digits)[0])))
    digits.classifier.thresholds = median(digits)
    assert digits.classifier.predict(digits.frames[frame]).exit_index == exact.exit_index[frame] == 0
    digits.classifier.thresholds = just_above_median(digits)
    assert digits.classifier.predict(digits.frames[frame]).exit_index == above.exit_index[frame] > 0


def test_the_decision_inside_the_graph_equals_edge_decision(digits: Case) -> None:
    reference = scores_from_logits(digits.logits)
    assert (digits.scores.label == reference.label).all()
    np.testing.assert_allclose(digits.scores.confidence, reference.confidence, rtol=1e-6)


def test_batched_probabilities_equal_those_of_single_frames(digits: Case) -> None:
    digits.classifier.thresholds = fitted(digits)
    single = [digits.classifier.predict(frame).probability for frame in digits.frames]
    batched = [prediction.probability for prediction in digits.classifier.predict_batch(digits.frames)]
    np.testing.assert_allclose(batched, single, rtol=1e-6)


def test_recording_equals_the_whole_network_at_every_exit(digits: Case) -> None:
    digits.classifier.thresholds = always(digits)
    recording = record(digits.classifier, digits.frames)
    assert recording.logits.tobytes() == digits.logits.tobytes()
    assert recording.scores.confidence.tobytes() == digits.scores.confidence.tobytes()
    assert recording.scores.label.tolist() == digits.scores.label.tolist()
    assert list(digits.classifier.thresholds) == always(digits)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_recording_in_parallel_gives_the_same_in_the_same_order(digits: Case, parts: int) -> None:
    shares = np.array_split(np.arange(len(digits.frames)), parts)
    parallel = record_parallel(digits.classifier, [[digits.frames[index] for index in share] for share in shares])
    expected = record(digits.classifier, digits.frames)
    assert parallel.logits.tobytes() == expected.logits.tobytes()
    assert parallel.scores.confidence.tobytes() == expected.scores.confidence.tobytes()
    assert parallel.scores.label.tolist() == expected.scores.label.tolist()


def test_compiling_a_checkpoint_again_gives_the_same_segments(
    digits_bundle: Bundle, trained: TrainedModel, exported: MultiExitGraph
) -> None:
    for name, graph in (("fp32", exported), ("int8", convert("int8", exported, trained, METHODS[0]).graph)):
        again = cut_segments(add_decisions(graph))
        kept = [onnx.load(digits_bundle.path / spec.file) for spec in digits_bundle.precision(name).segments]
        assert [segment.model for segment in again] == kept


DAMAGED_IMAGES = {
    "all NaN": lambda image: np.full_like(image, np.nan),
    "one NaN": lambda image: np.where(np.arange(image.size).reshape(image.shape) == image.size // 2, np.nan, image),
    "inf": lambda image: np.full_like(image, np.inf),
    "-inf": lambda image: np.full_like(image, -np.inf),
    "huge": lambda image: image * np.float32(1e30),
}


@pytest.mark.parametrize("thresholds", [fitted, always, never])
@pytest.mark.parametrize("damage", DAMAGED_IMAGES)
def test_damaged_network_input_is_answered_as_by_the_whole_network(
    digits: Case, damage: str, thresholds: Callable[[Case], list[float]]
) -> None:
    values = np.array(thresholds(digits), dtype=np.float32)
    image = DAMAGED_IMAGES[damage](digits.images[0]).astype(np.float32)
    slot = digits.classifier.new_slot()
    slot.start(digits.frames[0], values)
    slot.tensors()[tensors.IMAGE][0] = image
    _, scores = outputs_of(digits.whole, image[None], exits=3)
    assert bits_of([slot.result()]) == bits(*decide(scores, values))


@each_precision
@pytest.mark.parametrize("name", ["tiny cnn", "two tensors", "five exits"])
def test_chains_of_any_shape_answer_as_their_whole_network(
    tiny: Callable[[Compiled, str], Case], name: str, precision: str
) -> None:
    case = tiny(compiled(name, precision), precision)
    for thresholds in (always, never, median, just_above_median):
        case.classifier.thresholds = thresholds(case)
        assert predict_each(case) == predict_all(case) == expected_bits(case)


@each_precision
def test_a_cut_that_feeds_an_addition_agrees_within_rounding(
    tiny: Callable[[Compiled, str], Case], precision: str
) -> None:
    """ONNX Runtime fuses the addition into a convolution when both are in one graph, and rounds differently then."""
    case = tiny(compiled("residual", precision), precision)
    recording = record(case.classifier, case.frames)
    np.testing.assert_allclose(recording.logits, case.logits, atol=1e-6)
    assert (recording.scores.label == case.scores.label).all()


@each_precision
def test_the_first_class_wins_a_tie_at_every_exit(tiny: Callable[[Compiled, str], Case], precision: str) -> None:
    case = tiny(compiled("tied", precision), precision)
    assert (case.logits[[0, 2], :, 1] == case.logits[[0, 2], :, 2]).all()
    confidence = float(case.scores.confidence[0, 0])
    assert confidence == pytest.approx(1 / (2 + 2 * np.exp(-0.5)), rel=1e-6)
    for threshold, exit_index in ((confidence, 0), (float(np.nextafter(np.float32(confidence), np.float32(1))), 2)):
        case.classifier.thresholds = (threshold, NEVER)
        answers = predict_each(case)
        assert answers == predict_all(case)
        assert {(taken, label) for taken, _, label in answers} == {(exit_index, 1)}


@each_precision
@pytest.mark.parametrize("damaged", [0, 2])
def test_nan_logits_never_exit_early_and_the_last_exit_answers_with_them(
    tiny: Callable[[Compiled, str], Case], precision: str, damaged: int
) -> None:
    case = tiny(with_nan_logit(multi_exit_graph("tiny cnn", precision), damaged), precision)
    assert np.isnan(case.scores.confidence[damaged]).all()
    for thresholds in ([0.0, NEVER], [0.0, 0.0], [NEVER, NEVER]):
        case.classifier.thresholds = thresholds
        answers = [case.classifier.predict(frame) for frame in case.frames]
        assert bits_of(answers) == predict_all(case) == expected_bits(case)
        if damaged == 0:
            assert all(answer.exit_index > 0 for answer in answers)
        elif thresholds == [NEVER, NEVER]:
            assert all(answer.exit_index == 2 and np.isnan(answer.confidence) for answer in answers)
