"""OpenVINO: decisions equal those of `edge.decision` on its own logits, and integers agree with their emulation."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.bundle.bundle import Bundle
from edge.bundle.manifest import SegmentSpec
from edge.decision import NEVER, Scores, decide, scores_from_logits
from edge.engines import backend_named, openvino
from edge.engines.base import Backend
from edge.engines.cache import EngineCache, load_engines
from edge.errors import EngineError
from edge.frames.base import frame_from_array
from edge.inference.classifier import Classifier
from edge.inference.host import allocate_tensors
from edge.inference.record import record
from edge.parity.compare import verify
from tests.support.networks import (
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
FRAMES = [frame_from_array(image, "array") for image in random_images(24)]


@pytest.fixture
def backend() -> Backend:
    return backend_named("openvino")


@pytest.fixture
def specs(digits_bundle: Bundle) -> tuple[SegmentSpec, ...]:
    return digits_bundle.precision("int8").segments


@pytest.fixture
def classifier(tmp_path: Path, backend: Backend) -> Callable[[Compiled, str], Classifier]:
    """Return a function that makes a classifier of a tiny network on OpenVINO."""

    def make(network: Compiled, precision: str) -> Classifier:
        folder = tmp_path / "bundle"
        return classifier_of(folder, write_precision(folder, network, precision), backend)

    return make


def exits_of(classifier: Classifier, thresholds: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return exit index and label of each frame, alone; check that a batch gives the same."""
    classifier.thresholds = thresholds
    single = [(answer.exit_index, answer.label_index) for answer in map(classifier.predict, FRAMES)]
    batched = [(answer.exit_index, answer.label_index) for answer in classifier.predict_batch(FRAMES)]
    assert batched == single
    return single


def decided(scores: Scores, thresholds: NDArray[np.float32]) -> list[tuple[int, int]]:
    decisions = decide(scores, thresholds)
    return list(zip(decisions.exit_index.tolist(), decisions.label.tolist(), strict=True))


@each_precision
@pytest.mark.parametrize("name", ["two tensors", "five exits"])
def test_exact_thresholds_exit_and_the_next_float32_does_not(
    name: str, precision: str, classifier: Callable[[Compiled, str], Classifier]
) -> None:
    chain = classifier(compiled(name, precision), precision)
    recording = record(chain, FRAMES)
    reference = scores_from_logits(recording.logits)
    assert (recording.scores.label == reference.label).all()
    np.testing.assert_allclose(recording.scores.confidence, reference.confidence, rtol=1e-5)
    early = np.sort(recording.scores.confidence[:-1], axis=1)
    median = early[:, early.shape[1] // 2]
    for thresholds in (median, np.nextafter(median, np.float32(2)), np.zeros_like(median)):
        assert exits_of(chain, thresholds) == decided(recording.scores, thresholds)


@pytest.mark.parametrize("classes", [10, 200])
def test_a_batch_is_decided_as_each_of_its_samples_at_exact_thresholds(classes: int) -> None:
    logits = np.random.default_rng(0).normal(scale=3, size=(1000, classes)).astype(np.float32)
    arrays = {
        tensors.logits(0): logits[:1].copy(),
        tensors.threshold(0): np.zeros(1, np.float32),
        tensors.confidence(0): np.zeros(1, np.float32),
        tensors.label(0): np.zeros(1, np.int32),
        tensors.exit_flag(0): np.zeros(1, bool),
    }
    decide_one = openvino._bound_decision(arrays, 0)
    for sample in logits:
        arrays[tensors.logits(0)][0] = sample
        decide_one()
        confidence = arrays[tensors.confidence(0)].copy()
        batch = openvino._decision({tensors.logits(0): sample[None]}, {tensors.threshold(0): confidence}, 0)
        assert batch[tensors.exit_flag(0)].tolist() == [True]
        assert batch[tensors.confidence(0)] == confidence
        assert batch[tensors.label(0)] == arrays[tensors.label(0)]


@each_precision
def test_the_first_class_wins_a_tie(precision: str, classifier: Callable[[Compiled, str], Classifier]) -> None:
    chain = classifier(compiled("tied", precision), precision)
    recording = record(chain, FRAMES)
    assert (recording.logits[[0, 2], :, 1] == recording.logits[[0, 2], :, 2]).all()
    assert (recording.scores.label[[0, 2]] == 1).all()


@each_precision
@pytest.mark.parametrize("damaged", [0, 2])
def test_nan_logits_never_exit_early_and_the_last_exit_answers_with_them(
    damaged: int, precision: str, classifier: Callable[[Compiled, str], Classifier]
) -> None:
    chain = classifier(with_nan_logit(multi_exit_graph("tiny cnn", precision), damaged), precision)
    recording = record(chain, FRAMES)
    reference = scores_from_logits(recording.logits)
    assert np.isnan(recording.scores.confidence[damaged]).all()
    assert (recording.scores.label == reference.label).all()
    for thresholds in np.array([[0, NEVER], [0, 0], [NEVER, NEVER]], np.float32):
        assert exits_of(chain, thresholds) == decided(reference, thresholds)


@each_precision
def test_damaged_input_is_decided_as_its_logits(
    precision: str, classifier: Callable[[Compiled, str], Classifier]
) -> None:
    slot = classifier(compiled("tiny cnn", precision), precision).new_slot()
    early = np.array([[NEVER, NEVER], [0, 0]], np.float32)
    for value, thresholds in itertools.product((np.nan, np.inf, -np.inf, 1e30), early):
        slot.start(FRAMES[0], thresholds)
        slot.tensors()[tensors.IMAGE][...] = value
        answer = slot.result()
        confidence, label = scores_from_logits(slot.tensors()[tensors.logits(answer.exit_index)])
        assert (answer.label_index, np.isnan(answer.confidence)) == (label[0], np.isnan(confidence[0]))
        assert answer.exit_index == 2 or answer.confidence >= thresholds[answer.exit_index]


def test_integers_agree_with_their_emulation_at_every_exit(digits_bundle: Bundle) -> None:
    *_, parity = verify(digits_bundle, "int8", [backend_named("onnxruntime"), backend_named("openvino")])
    assert (parity.backend, parity.reference) == ("openvino", "onnxruntime")
    assert parity.exit_index_agreement >= 0.98
    assert all(exit_.top1_agreement >= 0.993 for exit_ in parity.exits)


def test_concatenated_integers_agree_with_their_emulation(
    classifier: Callable[[Compiled, str], Classifier], tmp_path: Path
) -> None:
    network = compiled("concat", "int8")
    reference = tmp_path / "reference"
    emulated = classifier_of(reference, write_precision(reference, network, "int8"), backend_named("onnxruntime"))
    expected, logits = record(emulated, FRAMES).logits, record(classifier(network, "int8"), FRAMES).logits
    assert np.abs(logits - expected).max() < 0.05 * expected.std()


def test_int8_convolutions_run_in_integers(
    digits_bundle: Bundle, specs: tuple[SegmentSpec, ...], backend: Backend
) -> None:
    engines: list[Any] = load_engines(digits_bundle.path, specs, backend)
    for spec, engine in zip(specs, engines, strict=True):
        operations = [node.get_rt_info() for node in engine._model.get_runtime_model().get_ops()]
        types = [o["runtimePrecision"].astype(str) for o in operations if o["layerType"].astype(str) == "Convolution"]
        assert types.count("i8") + types.count("u8") >= len(types) * spec.int8_macs_share / 2 > 0, spec.file


def test_outputs_are_written_into_the_bound_arrays(
    digits_bundle: Bundle, specs: tuple[SegmentSpec, ...], backend: Backend
) -> None:
    [engine] = load_engines(digits_bundle.path, specs[:1], backend)
    first, second = allocate_tensors(specs[:1]), allocate_tensors(specs[:1])
    runs = [engine.bind(first), engine.bind(second)]
    first[tensors.IMAGE][...] = 1
    for run in runs:
        run()
    assert (first[tensors.logits(0)] != second[tensors.logits(0)]).any()
    fresh = engine.run({name: first[name] for name in (tensors.IMAGE, tensors.threshold(0))})
    assert (fresh[tensors.logits(0)] == first[tensors.logits(0)]).all()


def test_arrays_that_do_not_fit_are_an_error_with_the_segment(
    digits_bundle: Bundle, specs: tuple[SegmentSpec, ...], backend: Backend
) -> None:
    [engine] = load_engines(digits_bundle.path, specs[:1], backend)
    arrays = allocate_tensors(specs[:1])
    arrays[tensors.logits(0)] = np.zeros((1, 3), np.float32)
    with pytest.raises(EngineError, match=r"OpenVINO .* cannot run int8/segment_0\.onnx \("):
        engine.bind(arrays)()


def test_other_segments_than_the_manifests_are_refused(
    digits_bundle: Bundle, specs: tuple[SegmentSpec, ...], backend: Backend, cache: EngineCache
) -> None:
    engine = cache.get(digits_bundle.path / specs[0].file, backend, 1)
    with pytest.raises(EngineError, match="is not the segment that its manifest describes: it has the inputs image"):
        backend.load(engine.path, specs[1])


def test_a_segment_that_openvino_refuses_is_an_error_of_this_process(
    digits_bundle: Bundle, specs: tuple[SegmentSpec, ...], backend: Backend, tmp_path: Path, cache: EngineCache
) -> None:
    folder = Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))
    model = onnx.load(folder / specs[0].file)
    del model.graph.node[0].input[:]
    onnx.save(model, folder / specs[0].file)
    with pytest.raises(EngineError, match=r"OpenVINO .* cannot run .*segment_0\.onnx"):
        load_engines(folder, specs, backend)
    assert not list(cache.root.glob("*/engine"))


def test_a_segment_without_logits_is_refused(
    digits_bundle: Bundle, specs: tuple[SegmentSpec, ...], tmp_path: Path
) -> None:
    model = onnx.load(digits_bundle.path / specs[0].file)
    [logits] = [output for output in model.graph.output if output.name == tensors.logits(0)]
    model.graph.output.remove(logits)
    onnx.save(model, tmp_path / "segment.onnx")
    with pytest.raises(EngineError, match="no output is named logits_0 or of a later exit, but "):
        openvino.remove_decision(openvino._core().read_model(tmp_path / "segment.onnx"))


def test_an_operation_that_does_nothing_between_image_and_network_changes_nothing(
    digits_bundle: Bundle, specs: tuple[SegmentSpec, ...], backend: Backend, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))
    model = onnx.load(folder / specs[0].file)
    for node in model.graph.node:
        node.input[:] = ["a_copy" if name == tensors.IMAGE else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Identity", [tensors.IMAGE], ["a_copy"]))
    onnx.save(model, folder / specs[0].file)
    arrays = allocate_tensors(specs[:1])
    inputs = {name: arrays[name] for name in (tensors.IMAGE, tensors.threshold(0))}
    answers = [load_engines(path, specs[:1], backend)[0].run(inputs) for path in (folder, digits_bundle.path)]
    np.testing.assert_array_equal(answers[0][tensors.logits(0)], answers[1][tensors.logits(0)])
