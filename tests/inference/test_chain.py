"""The chain of engines says of every frame what the whole network says, decided by the one rule in `edge.decision`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from compile.contents import write_segment
from compile.cut import Segment, cut_segments
from compile.decision_ops import add_decisions
from compile.export import export_onnx
from compile.graph import Graph
from compile.precisions import convert
from compile.quantise import METHODS
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle.bundle import Bundle
from edge.bundle.manifest import InputSpec, PrecisionSpec, SegmentSpec, TensorSpec, Thresholds
from edge.decision import NEVER, Decisions, Prediction, Scores, decide, scores_from_logits
from edge.engines.base import Engine
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import EngineError, SourceError, ThresholdError
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.inference.host import HostBatch
from edge.inference.record import record, record_side_by_side
from edge.training.checkpoint import Checkpoint
from tests.support.networks import (
    INPUT,
    PRECISIONS,
    Compiled,
    compiled,
    decided_and_cut,
    multi_exit_graph,
    random_images,
    written,
)

each_precision = pytest.mark.parametrize("precision", PRECISIONS)


class Chain(NamedTuple):
    """A network as engines for one image and for many, and what its whole graph says of some images."""

    one: Classifier
    many: Classifier
    whole: Engine
    """The whole multi-exit graph, every exit and its decision, as one engine."""
    frames: Sequence[Frame]
    images: NDArray[np.float32]
    logits: NDArray[np.float32]
    scores: Scores


def chain_of(
    bundle: Path, folder: Path, precision: PrecisionSpec, spec: InputSpec, whole: ModelProto, frames: Sequence[Frame]
) -> Chain:
    """Build engines from a bundle's files, and one in `folder` from the graph they were cut from."""
    one, many = (
        Classifier(
            input_spec=spec,
            precision=precision,
            engines=load_engines(bundle, precision.segments, OnnxRuntime(), batch=batch),
        )
        for batch in (1, None)
    )
    slot, images = one.new_slot(), []
    for slot.frame in frames:
        slot.load()
        images.append(slot.tensors["image"].copy())
    engine = whole_engine(folder, whole)
    logits, scores = said_by(engine, images, exits=len(precision.segments))
    return Chain(one, many, engine, frames, np.concatenate(images), logits, scores)


def whole_engine(folder: Path, whole: ModelProto) -> Engine:
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (whole.graph.input, whole.graph.output))
    spec = write_segment(folder, "multi_exit.onnx", Segment(whole, inputs, outputs))
    [engine] = load_engines(folder, [spec], OnnxRuntime())
    return engine


def said_by(whole: Engine, images: Sequence[NDArray[np.float32]], exits: int) -> tuple[NDArray[np.float32], Scores]:
    """Return what the whole graph says of images, one by one, at every exit."""
    thresholds = {f"threshold_{k}": np.array([NEVER], np.float32) for k in range(exits - 1)}
    outputs = [whole.run({"image": image, **thresholds}) for image in images]

    def stacked(kind: str) -> NDArray[Any]:
        return np.stack([[output[f"{kind}_{k}"][0] for output in outputs] for k in range(exits)])

    return stacked("logits"), Scores(stacked("confidence"), stacked("label"))


def bits(exit_index: Any, confidence: Any, label: Any) -> list[tuple[int, bytes, int]]:
    """Return answers such that NaN equals itself and nothing else is taken for equal."""
    values = np.asarray(confidence, dtype=np.float32)
    return [(int(e), c.tobytes(), int(n)) for e, c, n in zip(exit_index, values, label, strict=True)]


def bits_of(predictions: Sequence[Prediction]) -> list[tuple[int, bytes, int]]:
    labels, confidences, exits, _ = zip(*predictions, strict=True)
    return bits(exits, confidences, labels)


@pytest.fixture(scope="module")
def trained(digits_checkpoint: Checkpoint) -> TrainedModel:
    return load_trained_model(digits_checkpoint)


@pytest.fixture(scope="module")
def exported(digits_checkpoint: Checkpoint) -> ModelProto:
    return export_onnx(digits_checkpoint.network(), digits_checkpoint.input)


@pytest.fixture(scope="module", params=PRECISIONS)
def digits(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    digits_bundle: Bundle,
    trained: TrainedModel,
    exported: ModelProto,
) -> Chain:
    """Every test image of the digits, and the whole graph compiled once more from the checkpoint."""
    spec = digits_bundle.precision(request.param)
    graph = exported if request.param == "fp32" else convert("int8", exported, trained, METHODS[0]).model
    return chain_of(
        digits_bundle.path,
        tmp_path_factory.mktemp("whole"),
        spec,
        digits_bundle.manifest.input,
        add_decisions(graph),
        list(trained.frames("test")),
    )


@pytest.fixture
def made(tmp_path: Path) -> Callable[[Compiled, str], Chain]:
    """Make a chain of a tiny network."""

    def make(network: Compiled, precision: str) -> Chain:
        spec = written(tmp_path / "bundle", network, precision)
        return chain_of(tmp_path / "bundle", tmp_path, spec, INPUT, network.whole, list(random_images(12)))

    return make


def fitted(chain: Chain) -> list[float]:
    return list(chain.one.precision.thresholds.values)


def always(chain: Chain) -> list[float]:
    return [0.0] * (len(chain.one.segments) - 1)


def never(chain: Chain) -> list[float]:
    return [NEVER] * (len(chain.one.segments) - 1)


def occurring(chain: Chain) -> list[float]:
    """Return for each exit its median confidence, which a frame has exactly."""
    early = chain.scores.confidence[:-1]
    return np.sort(early, axis=1)[:, early.shape[1] // 2].tolist()


def just_above(chain: Chain) -> list[float]:
    return np.nextafter(np.array(occurring(chain), np.float32), np.float32(2)).tolist()


each_thresholds = pytest.mark.parametrize("thresholds", [fitted, always, never, occurring, just_above])


@each_thresholds
def test_step_by_step_the_chain_answers_every_digit_as_the_whole_network_does(
    digits: Chain, thresholds: Callable[[Chain], list[float]]
) -> None:
    digits.one.set_thresholds(thresholds(digits))
    predictions = [digits.one.classify(frame) for frame in digits.frames]
    expected = decide(digits.scores, digits.one.thresholds)
    assert bits_of(predictions) == bits(*expected)


@each_thresholds
@pytest.mark.parametrize("batch", [1, 2, 7, None])
def test_in_batches_the_chain_answers_every_digit_as_the_whole_network_does(
    digits: Chain, thresholds: Callable[[Chain], list[float]], batch: int | None
) -> None:
    digits.many.set_thresholds(thresholds(digits))
    size = batch or len(digits.images)
    parts = [
        HostBatch(digits.many).classify(digits.images[start : start + size])
        for start in range(0, len(digits.images), size)
    ]
    found = Decisions(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    expected = decide(digits.scores, digits.many.thresholds)
    assert bits(*found) == bits(*expected)


def test_thresholds_between_the_extremes_send_digits_to_all_exits(digits: Chain) -> None:
    """Else the tests above would compare less than they seem to."""
    assert set(decide(digits.scores, np.array(occurring(digits), np.float32)).exit_index) == {0, 1, 2}


def test_a_confidence_equal_to_the_threshold_leaves_and_one_float32_less_goes_on(digits: Chain) -> None:
    exact, above = (
        decide(digits.scores, np.array(limit, np.float32)) for limit in (occurring(digits), just_above(digits))
    )
    frame = int(np.argmax(digits.scores.confidence[0] == np.float32(occurring(digits)[0])))
    digits.one.set_thresholds(occurring(digits))
    assert digits.one.classify(digits.frames[frame]).exit_index == exact.exit_index[frame] == 0
    digits.one.set_thresholds(just_above(digits))
    assert digits.one.classify(digits.frames[frame]).exit_index == above.exit_index[frame] > 0


def test_the_decision_inside_the_graph_is_the_one_of_edge_decision(digits: Chain) -> None:
    reference = scores_from_logits(digits.logits)
    assert (digits.scores.label == reference.label).all()
    np.testing.assert_allclose(digits.scores.confidence, reference.confidence, rtol=1e-6)


def test_recording_gives_what_the_whole_network_says_at_every_exit(digits: Chain) -> None:
    digits.one.set_thresholds(always(digits))
    recording = record(digits.one, digits.frames)
    assert recording.logits.tobytes() == digits.logits.tobytes()
    assert recording.scores.confidence.tobytes() == digits.scores.confidence.tobytes()
    assert recording.scores.label.tolist() == digits.scores.label.tolist()
    assert digits.one.thresholds.tolist() == always(digits)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_recording_parts_side_by_side_gives_the_same_in_the_same_order(digits: Chain, parts: int) -> None:
    shares = np.array_split(np.arange(len(digits.frames)), parts)
    found = record_side_by_side(digits.one, [[digits.frames[index] for index in share] for share in shares])
    expected = record(digits.one, digits.frames)
    assert found.logits.tobytes() == expected.logits.tobytes()
    assert found.scores.confidence.tobytes() == expected.scores.confidence.tobytes()
    assert found.scores.label.tolist() == expected.scores.label.tolist()


def test_compiling_the_same_checkpoint_again_gives_the_same_segments(
    digits_bundle: Bundle, trained: TrainedModel, exported: ModelProto
) -> None:
    for name, graph in (("fp32", exported), ("int8", convert("int8", exported, trained, METHODS[0]).model)):
        again = cut_segments(add_decisions(graph))
        kept = [onnx.load(digits_bundle.path / spec.file) for spec in digits_bundle.precision(name).segments]
        assert [segment.model for segment in again] == kept


NO_IMAGES = {
    "all NaN": lambda image: np.full_like(image, np.nan),
    "one NaN": lambda image: np.where(np.arange(image.size).reshape(image.shape) == image.size // 2, np.nan, image),
    "inf": lambda image: np.full_like(image, np.inf),
    "-inf": lambda image: np.full_like(image, -np.inf),
    "huge": lambda image: image * np.float32(1e30),
}


@pytest.mark.parametrize("thresholds", [fitted, always, never])
@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_image_is_answered_as_the_whole_network_does(
    digits: Chain, kind: str, thresholds: Callable[[Chain], list[float]]
) -> None:
    digits.one.set_thresholds(thresholds(digits))
    image = NO_IMAGES[kind](digits.images[0]).astype(np.float32)
    slot = digits.one.new_slot()
    slot.frame = digits.frames[0]
    slot.load()
    slot.tensors["image"][0] = image
    _, scores = said_by(digits.whole, [image[None]], exits=3)
    assert bits_of([slot.infer()]) == bits(*decide(scores, digits.one.thresholds))


def small_thresholds(chain: Chain) -> Iterator[list[float]]:
    yield from (always(chain), never(chain), occurring(chain), just_above(chain))


@each_precision
@pytest.mark.parametrize("name", ["tiny cnn", "two tensors", "five exits"])
def test_chains_of_any_shape_answer_as_their_whole_network_does(
    made: Callable[[Compiled, str], Chain], name: str, precision: str
) -> None:
    chain = made(compiled(name, precision), precision)
    for thresholds in small_thresholds(chain):
        expected = bits(*decide(chain.scores, np.array(thresholds, np.float32)))
        chain.one.set_thresholds(thresholds)
        chain.many.set_thresholds(thresholds)
        assert bits_of([chain.one.classify(frame) for frame in chain.frames]) == expected
        assert bits(*HostBatch(chain.many).classify(chain.images)) == expected


@each_precision
def test_where_a_cut_feeds_an_addition_the_chain_agrees_to_the_last_digits(
    made: Callable[[Compiled, str], Chain], precision: str
) -> None:
    """ONNX Runtime fuses that addition into a convolution where it sees both, and rounds a little differently then."""
    chain = made(compiled("residual", precision), precision)
    recording = record(chain.one, chain.frames)
    np.testing.assert_allclose(recording.logits, chain.logits, atol=1e-6)
    assert (recording.scores.label == chain.scores.label).all()


@each_precision
def test_of_tied_logits_the_first_class_answers_wherever_the_frame_leaves(
    made: Callable[[Compiled, str], Chain], precision: str
) -> None:
    chain = made(compiled("tied", precision), precision)
    assert (chain.logits[[0, 2], :, 1] == chain.logits[[0, 2], :, 2]).all()
    confidence = float(chain.scores.confidence[0, 0])
    assert confidence == pytest.approx(1 / (2 + 2 * np.exp(-0.5)), rel=1e-6)
    for threshold, exit_index in ((confidence, 0), (float(np.nextafter(np.float32(confidence), np.float32(1))), 2)):
        for classifier in (chain.one, chain.many):
            classifier.set_thresholds([threshold, NEVER])
        answers = bits_of([chain.one.classify(frame) for frame in chain.frames])
        assert answers == bits(*HostBatch(chain.many).classify(chain.images))
        assert {(found, label) for found, _, label in answers} == {(exit_index, 1)}


@each_precision
@pytest.mark.parametrize("damaged", [0, 2])
def test_logits_that_are_no_numbers_never_leave_early_and_the_last_exit_answers_with_them(
    made: Callable[[Compiled, str], Chain], precision: str, damaged: int
) -> None:
    chain = made(with_nan_logit(multi_exit_graph("tiny cnn", precision), damaged), precision)
    assert np.isnan(chain.scores.confidence[damaged]).all()
    for thresholds in ([0.0, NEVER], [0.0, 0.0], [NEVER, NEVER]):
        expected = decide(chain.scores, np.array(thresholds, np.float32))
        for classifier in (chain.one, chain.many):
            classifier.set_thresholds(thresholds)
        answers = [chain.one.classify(frame) for frame in chain.frames]
        assert bits_of(answers) == bits(*expected) == bits(*HostBatch(chain.many).classify(chain.images))
        if damaged == 0:
            assert all(answer.exit_index > 0 for answer in answers)
        elif thresholds == [NEVER, NEVER]:
            assert all(answer.exit_index == 2 and np.isnan(answer.confidence) for answer in answers)


def with_nan_logit(graph: ModelProto, exit_index: int) -> Compiled:
    """Return a multi-exit graph compiled, after one logit of an exit was made NaN whatever the image."""
    damaged = ModelProto()
    damaged.CopyFrom(graph)
    name = Graph(damaged).producer[f"logits_{exit_index}"].input[2]
    [bias] = [tensor for tensor in damaged.graph.initializer if tensor.name == name]
    value = numpy_helper.to_array(bias).copy()
    value[1] = np.nan
    bias.CopyFrom(numpy_helper.from_array(value, name))
    return decided_and_cut(damaged)


class FakeEngine:
    """A segment that is as sure as it is told, of the label it is told; counts the samples it is asked about.

    It stands for segment `index` of a chain whose image is one number: the row of `confidence` to answer with. It
    refuses tensors that a segment does not have, and what it has not been bound to.
    """

    def __init__(self, spec: SegmentSpec, index: int, confidence: NDArray[np.float32]) -> None:
        self.spec, self.index, self.confidence = spec, index, confidence
        self.asked: list[int] = []
        self.error: Exception | None = None

    def bind(self, tensors: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        for spec in (*self.spec.inputs, *self.spec.outputs):
            found = tensors[spec.name]
            assert found.dtype == spec.dtype, spec.name
            assert found.shape == spec.shape_of_one, spec.name
            assert found.flags.c_contiguous

        def run() -> None:
            for name, value in self.computed(tensors).items():
                tensors[name][:] = value

        return run

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        assert list(inputs) == [spec.name for spec in self.spec.inputs]
        assert len(next(iter(inputs.values()))) > 0, "asked about nothing"
        return self.computed(inputs)

    def computed(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self.error is not None:
            raise self.error
        samples = tensors["image" if self.index == 0 else f"cut_{self.index - 1}"].reshape(-1).astype(int)
        self.asked += samples.tolist()
        confidence = self.confidence[self.index, samples]
        outputs: dict[str, NDArray[Any]] = {
            f"logits_{self.index}": np.stack([confidence, -confidence], axis=-1),
            f"confidence_{self.index}": confidence,
            f"label_{self.index}": (10 * self.index + samples).astype(np.int32),
        }
        if self.index < len(self.confidence) - 1:
            outputs[f"cut_{self.index}"] = samples.astype(np.float32).reshape(-1, 1, 1, 1)
            outputs[f"exit_{self.index}"] = confidence >= tensors[f"threshold_{self.index}"]
        return outputs


SURE = np.array([[0.9, 0.2, 0.3, np.nan], [0.5, 0.8, 0.4, 0.9], [0.6, 0.6, 0.7, 0.6]], dtype=np.float32)
"""Confidence of three exits in four samples, which with thresholds of 0.75 leave at exits 0, 1, 2 and 1."""


def fake_chain(confidence: NDArray[np.float32] = SURE, thresholds: Sequence[float] = (0.75, 0.75)) -> Classifier:
    number = InputSpec("array", None, 1, 1, 1, (0.0,), (1.0,))
    exits = len(confidence)
    segments = []
    for k in range(exits):
        early = k < exits - 1
        entering = TensorSpec(f"cut_{k - 1}" if k else "image", "float32", (None, 1, 1, 1))
        outputs = [TensorSpec(f"cut_{k}", "float32", (None, 1, 1, 1))] * early
        outputs += [TensorSpec(f"logits_{k}", "float32", (None, 2)), TensorSpec(f"confidence_{k}", "float32", (None,))]
        outputs += [TensorSpec(f"label_{k}", "int32", (None,))] + [TensorSpec(f"exit_{k}", "bool", (None,))] * early
        inputs = (entering, *[TensorSpec(f"threshold_{k}", "float32", (1,))] * early)
        segments.append(SegmentSpec(f"{k}.onnx", inputs, tuple(outputs), 0.0))
    fitted = Thresholds(tuple(thresholds), "accuracy_gap", 0.0, "none", None, samples=1, split="")
    engines = [FakeEngine(spec, index, confidence) for index, spec in enumerate(segments)]
    precision = PrecisionSpec(
        tuple(segments), segments[-1], thresholds=fitted, temperatures=(1.0,) * exits, notes=(), scores="scores.npz"
    )
    return Classifier(input_spec=number, precision=precision, engines=engines)


def number(value: int) -> Frame:
    return np.full((1, 1, 1), value, dtype=np.float32)


def asked(classifier: Classifier) -> list[list[int]]:
    return [engine.asked for engine in classifier.engines]  # type: ignore[attr-defined]


def test_segments_after_the_exit_that_answers_are_not_run() -> None:
    classifier = fake_chain()
    answers = [classifier.classify(number(sample)) for sample in range(4)]
    assert [answer.exit_index for answer in answers] == [0, 1, 2, 1]
    assert [answer.label for answer in answers] == [0, 11, 22, 13]
    assert [np.float32(answer.confidence) for answer in answers] == [SURE[0, 0], SURE[1, 1], SURE[2, 2], SURE[1, 3]]
    assert asked(classifier) == [[0, 1, 2, 3], [1, 2, 3], [2]]


def test_in_a_batch_only_those_go_on_that_did_not_leave() -> None:
    classifier = fake_chain()
    found = HostBatch(classifier).classify(np.arange(4, dtype=np.float32).reshape(-1, 1, 1, 1))
    assert found.exit_index.tolist() == [0, 1, 2, 1]
    assert found.label.tolist() == [0, 11, 22, 13]
    assert found.confidence.tolist() == [SURE[0, 0], SURE[1, 1], SURE[2, 2], SURE[1, 3]]
    assert asked(classifier) == [[0, 1, 2, 3], [1, 2, 3], [2]]


@pytest.mark.parametrize(("samples", "expected"), [([0, 0], [[0, 0], [], []]), ([], [[], [], []])])
def test_of_a_batch_that_nobody_is_left_of_no_segment_is_run(samples: list[int], expected: list[list[int]]) -> None:
    classifier = fake_chain()
    found = HostBatch(classifier).classify(np.array(samples, dtype=np.float32).reshape(-1, 1, 1, 1))
    assert len(found.exit_index) == len(samples)
    assert asked(classifier) == expected


def test_an_engine_that_breaks_is_heard_and_the_next_frame_is_answered() -> None:
    classifier = fake_chain()
    classifier.engines[1].error = EngineError("the device is gone")  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="the device is gone"):
        classifier.classify(number(2))
    with pytest.raises(EngineError, match="the device is gone"):
        HostBatch(classifier).classify(number(2)[None])
    classifier.engines[1].error = None  # type: ignore[attr-defined]
    assert classifier.classify(number(2)) == Prediction(
        22, pytest.approx(0.7), 2, pytest.approx(1 / (1 + np.exp(-1.4)))
    )


@pytest.mark.parametrize("frame", [None, "picture.png", [[0.0]]])
def test_what_is_no_array_is_no_frame(frame: Any) -> None:
    with pytest.raises(SourceError, match=f"a frame is no array but {type(frame).__name__}; was it read at all"):
        fake_chain().classify(frame)


def test_new_thresholds_count_from_the_next_frame_that_is_loaded() -> None:
    classifier = fake_chain()
    early, late = classifier.new_slot(), classifier.new_slot()
    early.frame = late.frame = number(1)
    early.load()
    classifier.set_thresholds([0.0, 0.0])
    late.load()
    assert [early.infer().exit_index, late.infer().exit_index] == [1, 0]
    early.load()
    assert early.infer().exit_index == 0


def test_new_thresholds_do_not_change_a_batch_under_way() -> None:
    classifier = fake_chain()
    first = classifier.engines[0].run

    def changed_meanwhile(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        classifier.set_thresholds([0.0, 0.0])
        return first(inputs)

    classifier.engines[0].run = changed_meanwhile  # type: ignore[method-assign]
    found = HostBatch(classifier).classify(np.arange(4, dtype=np.float32).reshape(-1, 1, 1, 1))
    assert found.exit_index.tolist() == [0, 1, 2, 1]


def test_frames_in_two_slots_do_not_meet() -> None:
    classifier = fake_chain()
    slots = [classifier.new_slot(), classifier.new_slot()]
    for slot, sample in zip(slots, (1, 2), strict=True):
        slot.frame = number(sample)
        slot.load()
    assert [slot.infer().label for slot in slots] == [11, 22]
    assert [slot.infer().label for slot in reversed(slots)] == [22, 11]


def test_a_frame_is_not_answered_from_what_an_earlier_frame_left_in_the_slot() -> None:
    classifier = fake_chain()
    order = [2, 0, 1, 3, 2, 1, 0, 0, 2]
    assert [classifier.classify(number(sample)).label % 10 for sample in order] == order


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5], [0.5, np.nan], [-0.1, 0.5], [0.5, np.inf]])
def test_thresholds_that_are_refused_leave_those_in_force(values: list[float]) -> None:
    classifier = fake_chain()
    with pytest.raises(ThresholdError):
        classifier.set_thresholds(values)
    assert classifier.classify(number(1)).exit_index == 1


def test_recording_asks_every_segment_about_every_frame_and_leaves_the_thresholds_as_they_were() -> None:
    classifier = fake_chain(thresholds=(0.0, 0.75))
    recording = record(classifier, [number(sample) for sample in (3, 0, 2)])
    assert asked(classifier) == [[3, 0, 2]] * 3
    np.testing.assert_array_equal(recording.scores.confidence, SURE[:, [3, 0, 2]])
    assert recording.scores.label.tolist() == [[3, 0, 2], [13, 10, 12], [23, 20, 22]]
    np.testing.assert_array_equal(recording.logits[..., 0], SURE[:, [3, 0, 2]])
    assert classifier.thresholds.tolist() == [0.0, 0.75]


def test_recording_that_breaks_leaves_the_thresholds_as_they_were() -> None:
    classifier = fake_chain()
    classifier.engines[2].error = EngineError("the device is gone")  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="the device is gone"):
        record(classifier, [number(0)])
    assert classifier.thresholds.tolist() == [0.75, 0.75]


def test_recording_runs_every_segment_even_where_an_exit_is_as_sure_as_can_be() -> None:
    classifier = fake_chain(np.ones((3, 1), np.float32))
    record(classifier, [number(0)])
    assert asked(classifier) == [[0]] * 3
