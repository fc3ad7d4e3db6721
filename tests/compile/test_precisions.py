"""Every precision says nearly what fp32 says, is cut where it is narrow, and explains what it leaves out."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from compile.auto import SelectionData, fastest_per_segment, logits
from compile.check import assert_chain_equals_whole
from compile.graph import Graph, int8_macs_share
from compile.half import to_fp16
from compile.quantise import float_convolutions, quantise_int8
from compile.sensitivity import sensitivity
from edge.bundle.manifest import TensorSpec
from edge.errors import CheckpointError
from edge.parity.compare import TOLERANCES, Tolerance
from tests.support.networks import decided_and_cut, multi_exit_graph, random_images

SHAPED = ("tiny cnn", "residual", "two tensors", "five exits")
IMAGES = random_images(64)
SAMPLES = random_images(32, seed=1)

each_network = pytest.mark.parametrize("name", SHAPED)


def selection(name: str) -> SelectionData:
    answers = logits(multi_exit_graph(name, "fp32"), IMAGES)[-1].argmax(axis=-1)
    return SelectionData(IMAGES, answers.astype(np.int64), SAMPLES, "max")


def specs(model: ModelProto, names: list[str]) -> list[TensorSpec]:
    graph = Graph(model)
    return [graph.spec(name) for name in names]


def changed(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    share: NDArray[np.float64] = (found.argmax(axis=-1) != expected.argmax(axis=-1)).mean(axis=1)
    return share


# fp16


@each_network
def test_fp16_says_what_fp32_says_up_to_its_rounding(name: str) -> None:
    plain = multi_exit_graph(name, "fp32")
    np.testing.assert_allclose(logits(to_fp16(plain, SAMPLES), IMAGES), logits(plain, IMAGES), atol=0.02)


@each_network
def test_fp16_segments_hand_over_fp16_and_decide_in_fp32(name: str) -> None:
    whole, segments = decided_and_cut(to_fp16(multi_exit_graph(name, "fp32"), SAMPLES))
    assert_chain_equals_whole(whole, segments, IMAGES[:4])
    for segment in segments:
        for spec in specs(segment.model, [*segment.inputs, *segment.outputs]):
            wide = {"label": "int32", "exit": "bool"}.get(spec.name.partition("_")[0], "float32")
            assert spec.dtype == ("float16" if spec.name.startswith("cut_") else wide), spec


@each_network
def test_every_convolution_of_an_fp16_segment_has_fp16_weights(name: str) -> None:
    for segment in decided_and_cut(to_fp16(multi_exit_graph(name, "fp32"), SAMPLES)).segments:
        graph = Graph(segment.model)
        convolutions = [node for node in graph.nodes if node.op_type == "Conv"]
        assert convolutions
        for node in convolutions:
            assert graph.initializers[node.input[1]].data_type == onnx.TensorProto.FLOAT16


def test_making_fp16_of_a_graph_leaves_the_graph_as_it_was() -> None:
    plain = multi_exit_graph("tiny cnn", "fp32")
    before = plain.SerializeToString(deterministic=True)
    to_fp16(plain, SAMPLES)
    assert plain.SerializeToString(deterministic=True) == before


def louder(model: ModelProto, factor: float) -> ModelProto:
    """Return a graph whose first convolution is so much louder and whose second takes that back."""
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    [first] = graph.consumers["image"]
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name in first.input[1:]:
        scaled = (numpy_helper.to_array(weights[name]) * factor).astype(np.float32)
        weights[name].CopyFrom(numpy_helper.from_array(scaled, name))
    return copy


def test_numbers_too_large_for_fp16_are_refused_with_the_node_that_makes_them() -> None:
    model = louder(multi_exit_graph("tiny cnn", "fp32"), 1e5)
    [first] = Graph(model).consumers["image"]
    with pytest.raises(CheckpointError, match=rf"made by {first.name} \(Conv\), is too large for fp16"):
        to_fp16(model, SAMPLES)


def test_weights_too_large_for_fp16_are_refused_and_not_made_smaller() -> None:
    model = louder(multi_exit_graph("tiny cnn", "fp32"), 1e7)
    [first] = Graph(model).consumers["image"]
    with pytest.raises(CheckpointError, match=rf"the weight \S+ of {first.name} \(Conv\) is too large for fp16"):
        to_fp16(model, SAMPLES)


# int8


def test_an_unknown_way_to_choose_ranges_is_refused_and_not_taken_for_another() -> None:
    with pytest.raises(CheckpointError, match="no calibration method 'percentile'; choose max or entropy"):
        quantise_int8(multi_exit_graph("tiny cnn", "fp32"), SAMPLES, method="percentile")


def test_the_two_ways_to_choose_ranges_choose_others() -> None:
    plain = multi_exit_graph("tiny cnn", "fp32")
    entropy, largest = (quantise_int8(plain, SAMPLES, method=method) for method in ("entropy", "max"))
    assert not np.array_equal(logits(entropy, IMAGES), logits(largest, IMAGES))


@each_network
def test_each_convolution_that_stays_float_has_its_reason(name: str) -> None:
    plain, quantised = multi_exit_graph(name, "fp32"), Graph(multi_exit_graph(name, "int8"))
    reasons = float_convolutions(plain)
    left = {node.name for node in quantised.nodes if node.op_type == "Conv" and not quantised.is_int8(node)}
    assert left == set(reasons)
    assert all(reasons.values())


# auto

ANYTHING = Tolerance(float("inf"), 0.0, 0.0, 1.0, 1.0)


def tolerate(monkeypatch: pytest.MonkeyPatch, tolerance: Tolerance) -> None:
    monkeypatch.setitem(TOLERANCES, "auto", tolerance)


@each_network
def test_where_int8_keeps_the_answers_auto_is_int8(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tolerate(monkeypatch, ANYTHING)
    model, reasons = fastest_per_segment(multi_exit_graph(name, "fp32"), selection(name))
    assert model == quantise_int8(multi_exit_graph(name, "fp32"), SAMPLES, method="max")
    assert [reason.split(":")[0] for reason in reasons] == [f"segment {k}" for k in range(len(reasons))]
    assert all(": int8, keeps every exit's answers" in reason for reason in reasons)


@each_network
@pytest.mark.parametrize("allowed", ["fp16", "fp32"])
def test_where_int8_keeps_no_exit_the_next_precision_is_taken_that_does(
    name: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = multi_exit_graph(name, "fp32")
    in_fp16 = np.abs(logits(to_fp16(plain, SAMPLES), IMAGES) - logits(plain, IMAGES)).max()
    bound = float(in_fp16) if allowed == "fp16" else 0.0
    tolerate(monkeypatch, ANYTHING._replace(max_abs_logit_error=bound))
    model, reasons = fastest_per_segment(plain, selection(name))
    whole, segments = decided_and_cut(model)
    assert_chain_equals_whole(whole, segments, IMAGES[:4])
    assert int8_macs_share(model) == 0
    assert all(f": {allowed}, " in reason and "at exit" in reason for reason in reasons)
    assert np.abs(logits(model, IMAGES) - logits(plain, IMAGES)).max() <= bound


def test_a_segment_whose_answers_fp16_changes_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ModelProto()
    plain.CopyFrom(multi_exit_graph("tiny cnn", "fp32"))
    weight = Graph(plain).producer["logits_2"].input[2]
    [bias] = [tensor for tensor in plain.graph.initializer if tensor.name == weight]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(20_000), bias.name))
    model, reasons = fastest_per_segment(plain, selection("tiny cnn"))
    assert changed(logits(to_fp16(plain, SAMPLES), IMAGES), logits(plain, IMAGES))[2] > 0.1
    assert changed(logits(model, IMAGES), logits(plain, IMAGES)).max() <= 1 - TOLERANCES["auto"].top1_agreement
    assert ": fp32, fp16 in it alone changes" in reasons[2]


def spiky(model: ModelProto, factor: float = 1e4) -> ModelProto:
    """Return a graph that computes the same, but whose first convolution has one channel far louder than the others.

    One scale for all channels of a tensor then leaves the others nothing: what reads it should not be in int8.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}

    def scale(name: str, axis: int, by: float) -> None:
        values = numpy_helper.to_array(weights[name]).copy()
        values[(slice(None),) * axis + (0,)] *= by
        weights[name].CopyFrom(numpy_helper.from_array(values, name))

    [first] = graph.consumers["image"]
    for name in first.input[1:]:
        scale(name, 0, factor)
    [relu] = graph.consumers[first.output[0]]
    for reader in graph.consumers[relu.output[0]]:
        scale(reader.input[1], 1, 1 / factor)
    return copy


@pytest.mark.parametrize("name", ["tiny cnn", "five exits"])
def test_only_the_segments_that_hurt_leave_int8(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tolerate(monkeypatch, ANYTHING._replace(top1_agreement=0.97))
    plain = spiky(multi_exit_graph(name, "fp32"))
    expected = logits(plain, IMAGES)
    np.testing.assert_allclose(expected, logits(multi_exit_graph(name, "fp32"), IMAGES), atol=1e-4)
    assert changed(logits(quantise_int8(plain, SAMPLES, method="max"), IMAGES), expected).max() > 0.03
    model, reasons = fastest_per_segment(plain, selection(name))
    kept = [": int8, " in reason for reason in reasons]
    assert not all(kept[:2])
    assert all(kept[2:])
    assert changed(logits(model, IMAGES), expected).max() <= 0.03
    whole, segments = decided_and_cut(model)
    assert_chain_equals_whole(whole, segments, IMAGES[:4])
    assert [int8_macs_share(segment.model) > 0.5 for segment in segments] == kept


def test_a_segment_that_overflows_fp16_stays_fp32_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tolerate(monkeypatch, ANYTHING._replace(max_abs_logit_error=0.0))
    plain = louder(multi_exit_graph("tiny cnn", "fp32"), 1e5)
    _, reasons = fastest_per_segment(plain, selection("tiny cnn"))
    assert reasons[0].startswith("segment 0: fp32, int8 in it alone changes")
    assert "fp16 does not hold its numbers" in reasons[0]
    assert "--precision" not in reasons[0]


# sensitivity


@pytest.mark.parametrize("name", ["tiny cnn", "two tensors", "five exits"])  # an Add is quantised with its neighbour
def test_one_convolution_alone_in_int8_is_what_the_quantiser_makes_of_it_alone(name: str) -> None:
    plain, quantised = multi_exit_graph(name, "fp32"), multi_exit_graph(name, "int8")
    graph = Graph(plain)
    expected = logits(plain, IMAGES)
    found = {harm.layer: harm for harm in sensitivity(plain, quantised, IMAGES)}
    layers = [node for node in graph.nodes if node.op_type == "Conv" and node.name not in float_convolutions(plain)]
    assert set(found) == {node.input[1].removeprefix("network.") for node in layers}
    for node in layers:
        others = [other.name for other in graph.nodes if other.name != node.name]
        alone = logits(quantise_int8(plain, SAMPLES, method="max", left_out=others), IMAGES)
        harm = found[node.input[1].removeprefix("network.")]
        assert harm.logit_change == pytest.approx(float(np.abs(alone - expected).mean()), rel=0.02, abs=1e-5)
        assert harm.changed_answers == pytest.approx(changed(alone, expected).tolist(), abs=1 / 64 + 1e-9)


def test_the_worst_convolution_comes_first_and_shares_add_up_to_what_is_int8() -> None:
    plain, quantised = multi_exit_graph("residual", "fp32"), multi_exit_graph("residual", "int8")
    found = sensitivity(plain, quantised, IMAGES[:8])
    changes = [harm.logit_change for harm in found]
    assert changes == sorted(changes, reverse=True)
    assert 0.5 < sum(harm.macs_share for harm in found) < 1
