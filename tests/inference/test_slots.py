"""Slots, batches and recordings on fake engines that count the samples they run on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import InputSpec, SegmentSpec, TensorSpec
from edge.decision import Prediction
from edge.errors import EngineError, SourceError, ThresholdError
from edge.frames.base import Frame, PixelFormat
from edge.inference.classifier import Classifier
from edge.inference.record import record


class FakeEngine:
    """Segment `index` of a chain whose image is one number: the sample whose column of `confidence` it returns.

    It records the samples it runs on, and refuses tensors that the segment does not have.
    """

    def __init__(self, spec: SegmentSpec, index: int, confidence: NDArray[np.float32]) -> None:
        self.spec, self.index, self.confidence = spec, index, confidence
        self.samples_run: list[int] = []
        self.error: Exception | None = None

    def bind(self, tensors: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        for spec in (*self.spec.inputs, *self.spec.outputs):
            tensor = tensors[spec.name]
            assert tensor.dtype == spec.dtype, spec.name
            assert tensor.shape == spec.sample_shape, spec.name
            assert tensor.flags.c_contiguous

        def run() -> None:
            for name, value in self.compute(tensors).items():
                tensors[name][:] = value

        return run

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        assert list(inputs) == [spec.name for spec in self.spec.inputs]
        assert len(next(iter(inputs.values()))) > 0, "run on an empty batch"
        return self.compute(inputs)

    def compute(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self.error is not None:
            raise self.error
        samples = tensors["image" if self.index == 0 else f"cut_{self.index - 1}"].reshape(-1).astype(int)
        self.samples_run += samples.tolist()
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


CONFIDENCE = np.array([[0.9, 0.2, 0.3, np.nan], [0.5, 0.8, 0.4, 0.9], [0.6, 0.6, 0.7, 0.6]], dtype=np.float32)
"""Confidence of three exits for four samples, which with thresholds of 0.75 take exits 0, 1, 2 and 1."""
LABELS = tuple(f"class {index}" for index in range(30))
FITTED = (0.75, 0.75)


class FakeChain:
    """A classifier on fake engines."""

    def __init__(self, confidence: NDArray[np.float32] = CONFIDENCE, thresholds: Sequence[float] = FITTED) -> None:
        input_spec = InputSpec("array", None, 1, 1, 1, (0.0,), (1.0,))
        exits = len(confidence)
        segments = tuple(fake_segment(k, is_last=k == exits - 1) for k in range(exits))
        self.engines = [FakeEngine(spec, index, confidence) for index, spec in enumerate(segments)]
        chain = ChainSpec(input_spec, LABELS, segments, (1.0,) * exits)
        self.classifier = Classifier(chain, self.engines, thresholds, load_batch_engines=lambda: self.engines)

    @property
    def samples_run(self) -> list[list[int]]:
        return [engine.samples_run for engine in self.engines]


def fake_segment(k: int, *, is_last: bool) -> SegmentSpec:
    cuts_in, cuts_out = (() if k == 0 else (f"cut_{k - 1}",)), (() if is_last else (f"cut_{k}",))
    inputs = [TensorSpec(name, "float32", (None, 1, 1, 1)) for name in cuts_in or ("image",)]
    outputs = [TensorSpec(name, "float32", (None, 1, 1, 1)) for name in cuts_out]
    outputs += [TensorSpec(f"logits_{k}", "float32", (None, 2)), TensorSpec(f"confidence_{k}", "float32", (None,))]
    outputs += [TensorSpec(f"label_{k}", "int32", (None,))]
    if not is_last:
        inputs.append(TensorSpec(f"threshold_{k}", "float32", (1,)))
        outputs.append(TensorSpec(f"exit_{k}", "bool", (None,)))
    return SegmentSpec(f"{k}.onnx", tuple(inputs), tuple(outputs), 0.0, k, cuts_in, cuts_out)


def number(value: int) -> NDArray[np.float32]:
    return np.full((1, 1, 1), value, dtype=np.float32)


def frame(value: int) -> Frame:
    return Frame(number(value), PixelFormat.ARRAY)


def thresholds(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def test_segments_after_the_answering_exit_do_not_run() -> None:
    chain = FakeChain()
    answers = [chain.classifier.predict(number(sample)) for sample in range(4)]
    assert [answer.exit_index for answer in answers] == [0, 1, 2, 1]
    assert [answer.label_index for answer in answers] == [0, 11, 22, 13]
    assert [answer.label for answer in answers] == ["class 0", "class 11", "class 22", "class 13"]
    expected = [CONFIDENCE[0, 0], CONFIDENCE[1, 1], CONFIDENCE[2, 2], CONFIDENCE[1, 3]]
    assert [np.float32(answer.confidence) for answer in answers] == expected
    assert chain.samples_run == [[0, 1, 2, 3], [1, 2, 3], [2]]


def test_samples_that_exit_are_removed_from_a_batch() -> None:
    chain = FakeChain()
    answers = chain.classifier.predict_batch([number(sample) for sample in range(4)])
    assert [answer.exit_index for answer in answers] == [0, 1, 2, 1]
    assert [answer.label for answer in answers] == ["class 0", "class 11", "class 22", "class 13"]
    expected = [CONFIDENCE[0, 0], CONFIDENCE[1, 1], CONFIDENCE[2, 2], CONFIDENCE[1, 3]]
    assert [np.float32(answer.confidence) for answer in answers] == expected
    assert chain.samples_run == [[0, 1, 2, 3], [1, 2, 3], [2]]


@pytest.mark.parametrize(("samples", "expected"), [([0, 0], [[0, 0], [], []]), ([], [[], [], []])])
def test_no_segment_runs_on_an_empty_batch(samples: list[int], expected: list[list[int]]) -> None:
    chain = FakeChain()
    assert len(chain.classifier.predict_batch([number(sample) for sample in samples])) == len(samples)
    assert chain.samples_run == expected


def test_a_failing_engine_raises_and_the_next_frame_is_classified() -> None:
    chain = FakeChain()
    chain.engines[1].error = EngineError("the device is gone")
    with pytest.raises(EngineError, match="the device is gone"):
        chain.classifier.predict(number(2))
    with pytest.raises(EngineError, match="the device is gone"):
        chain.classifier.predict_batch([number(2)])
    chain.engines[1].error = None
    expected = Prediction("class 22", 22, pytest.approx(1 / (1 + np.exp(-1.4))), 2, pytest.approx(0.7))
    assert chain.classifier.predict(number(2)) == expected
    assert chain.classifier.predict_batch([number(2)]) == [expected]


@pytest.mark.parametrize("image", [7, [[0.0]], object()])
def test_an_image_of_another_type_is_refused(image: Any) -> None:
    with pytest.raises(
        SourceError, match=f"{type(image).__name__} is not an image; give a file, a NumPy array or a PIL"
    ):
        FakeChain().classifier.predict(image)


def test_new_thresholds_apply_from_the_next_started_frame() -> None:
    chain = FakeChain()
    early, late = chain.classifier.new_slot(), chain.classifier.new_slot()
    early.start(frame(1), thresholds(0.75, 0.75))
    late.start(frame(1), thresholds(0.0, 0.0))
    assert [early.result().exit_index, late.result().exit_index] == [1, 0]
    early.start(frame(1), thresholds(0.0, 0.0))
    assert early.result().exit_index == 0


def test_new_thresholds_do_not_change_a_running_batch() -> None:
    chain = FakeChain()
    run = chain.engines[0].run

    def run_and_change(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        chain.classifier.thresholds = (0.0, 0.0)
        return run(inputs)

    chain.engines[0].run = run_and_change  # type: ignore[method-assign]
    answers = chain.classifier.predict_batch([number(sample) for sample in range(4)])
    assert [answer.exit_index for answer in answers] == [0, 1, 2, 1]


def test_frames_in_two_slots_do_not_mix() -> None:
    chain = FakeChain()
    slots = [chain.classifier.new_slot(), chain.classifier.new_slot()]
    for slot, sample in zip(slots, (1, 2), strict=True):
        slot.start(frame(sample), thresholds(*FITTED))
    assert [slot.result().label_index for slot in slots] == [11, 22]
    assert [slot.result().label_index for slot in reversed(slots)] == [22, 11]


def test_a_slot_keeps_nothing_of_earlier_frames() -> None:
    chain = FakeChain()
    order = [2, 0, 1, 3, 2, 1, 0, 0, 2]
    assert [chain.classifier.predict(number(sample)).label_index % 10 for sample in order] == order


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5], [0.5, np.nan], [-0.1, 0.5], [0.5, np.inf]])
def test_refused_thresholds_leave_the_current_ones_in_place(values: list[float]) -> None:
    classifier = FakeChain().classifier
    with pytest.raises(ThresholdError):
        classifier.thresholds = values
    assert classifier.thresholds == FITTED
    assert classifier.predict(number(1)).exit_index == 1


def test_recording_runs_every_segment_on_every_frame_and_keeps_the_thresholds() -> None:
    chain = FakeChain(thresholds=(0.0, 0.75))
    recording = record(chain.classifier, [frame(sample) for sample in (3, 0, 2)])
    assert chain.samples_run == [[3, 0, 2]] * 3
    np.testing.assert_array_equal(recording.scores.confidence, CONFIDENCE[:, [3, 0, 2]])
    assert recording.scores.label.tolist() == [[3, 0, 2], [13, 10, 12], [23, 20, 22]]
    np.testing.assert_array_equal(recording.logits[..., 0], CONFIDENCE[:, [3, 0, 2]])
    assert chain.classifier.thresholds == (0.0, 0.75)


def test_a_failing_recording_keeps_the_thresholds() -> None:
    chain = FakeChain()
    chain.engines[2].error = EngineError("the device is gone")
    with pytest.raises(EngineError, match="the device is gone"):
        record(chain.classifier, [frame(0)])
    assert chain.classifier.thresholds == FITTED


def test_recording_runs_every_segment_even_at_full_confidence() -> None:
    chain = FakeChain(np.ones((3, 1), np.float32))
    record(chain.classifier, [frame(0)])
    assert chain.samples_run == [[0]] * 3


def test_a_classifier_without_engines_for_batches_says_so() -> None:
    chain = FakeChain()
    alone = Classifier(chain.classifier.chain, chain.engines, FITTED)
    with pytest.raises(EngineError, match="no engines for batches"):
        alone.predict_batch([number(0)])


@pytest.mark.parametrize("label", [-1, 30])
def test_a_label_that_the_bundle_does_not_have_is_an_error(label: int) -> None:
    chain = FakeChain()
    compute = chain.engines[0].compute

    def compute_other_label(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = compute(tensors)
        return outputs | {"label_0": np.full_like(outputs["label_0"], label)}

    chain.engines[0].compute = compute_other_label  # type: ignore[method-assign]
    for predict in (chain.classifier.predict, lambda image: chain.classifier.predict_batch([image])):
        with pytest.raises(EngineError, match=f"predicts class {label} of 30"):
            predict(number(0))


def test_a_batch_of_one_file_name_is_refused() -> None:
    with pytest.raises(SourceError, match="predict_batch classifies several images, got str"):
        FakeChain().classifier.predict_batch("picture.png")
