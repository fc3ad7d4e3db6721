"""The chain of engines says of every frame what the whole network says, decided by the one rule in `edge.decision`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from networks import INPUT, PRECISIONS, Compiled, compiled, decided_and_cut, multi_exit_graph, random_images, written
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from compile.check import Evaluator
from compile.cut import cut_segments
from compile.decision_ops import add_decisions
from compile.export import export_onnx
from compile.graph import Graph
from compile.material import Material, material_of
from compile.recipe import quantised
from edge.bundle import Bundle
from edge.classifier import Classifier, classify_batch
from edge.decision import NEVER, Decisions, Scores, decide, scores_from_logits
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import EngineError, ThresholdError
from edge.manifest import InputSpec, PrecisionSpec, SegmentSpec, TensorSpec, Thresholds
from edge.preprocess import Frame
from edge.protocols import Engine, Prediction
from edge.recording import record
from edge.training.checkpoint import Checkpoint

each_precision = pytest.mark.parametrize("precision", PRECISIONS)


class Chain(NamedTuple):
    """A network as engines for one image and for many, and what its whole graph says of some images."""

    one: Classifier
    many: Classifier
    whole: Evaluator
    frames: Sequence[Frame]
    images: NDArray[np.float32]
    logits: NDArray[np.float32]
    scores: Scores


def chain_of(
    folder: Path, precision: PrecisionSpec, spec: InputSpec, whole: ModelProto, frames: Sequence[Frame]
) -> Chain:
    one, many = (
        Classifier(
            input_spec=spec,
            precision=precision,
            engines=load_engines(folder, precision.segments, OnnxRuntime(), batch=batch),
        )
        for batch in (1, None)
    )
    slot, images = one.new_slot(), []
    for slot.frame in frames:
        slot.load()
        images.append(slot.tensors["image"].copy())
    evaluator = Evaluator(whole)
    logits, scores = said_by(evaluator, images, exits=len(precision.segments))
    return Chain(one, many, evaluator, frames, np.concatenate(images), logits, scores)


def said_by(whole: Evaluator, images: Sequence[NDArray[np.float32]], exits: int) -> tuple[NDArray[np.float32], Scores]:
    """Return what the whole graph says of images, one by one, at every exit."""
    thresholds = {f"threshold_{k}": np.array([NEVER], np.float32) for k in range(exits - 1)}
    outputs = [whole({"image": image, **thresholds}) for image in images]

    def stacked(kind: str) -> NDArray[Any]:
        return np.stack([[output[f"{kind}_{k}"][0] for output in outputs] for k in range(exits)])

    return stacked("logits"), Scores(stacked("confidence"), stacked("label"))


def bits(exit_index: Any, confidence: Any, label: Any) -> list[tuple[int, bytes, int]]:
    """Return answers such that NaN equals itself and nothing else is taken for equal."""
    values = np.asarray(confidence, dtype=np.float32)
    return [(int(e), c.tobytes(), int(n)) for e, c, n in zip(exit_index, values, label, strict=True)]


def bits_of(predictions: Sequence[Prediction]) -> list[tuple[int, bytes, int]]:
    labels, confidences, exits = zip(*predictions, strict=True)
    return bits(exits, confidences, labels)


@pytest.fixture(scope="module")
def material(digits_checkpoint: Checkpoint) -> Material:
    return material_of(digits_checkpoint)


@pytest.fixture(scope="module")
def exported(digits_checkpoint: Checkpoint) -> ModelProto:
    return export_onnx(digits_checkpoint.network(), digits_checkpoint.input)


@pytest.fixture(scope="module", params=PRECISIONS)
def digits(request: pytest.FixtureRequest, digits_bundle: Bundle, material: Material, exported: ModelProto) -> Chain:
    """Every test image of the digits, and the whole graph compiled once more from the checkpoint."""
    spec = digits_bundle.precision(request.param)
    graph = exported if request.param == "fp32" else quantised(exported, material)
    return chain_of(
        digits_bundle.path, spec, digits_bundle.manifest.input, add_decisions(graph), material.frames("test")
    )


@pytest.fixture
def made(tmp_path: Path) -> Callable[[Compiled, str], Chain]:
    """Make a chain of a tiny network."""

    def make(network: Compiled, precision: str) -> Chain:
        spec = written(tmp_path / "bundle", network, precision)
        return chain_of(tmp_path / "bundle", spec, INPUT, network.whole, list(random_images(12)))

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
        classify_batch(digits.many, digits.images[start : start + size]) for start in range(0, len(digits.images), size)
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


def test_compiling_the_same_checkpoint_again_gives_the_same_segments(
    digits_bundle: Bundle, material: Material, exported: ModelProto
) -> None:
    for name, graph in (("fp32", exported), ("int8", quantised(exported, material))):
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
