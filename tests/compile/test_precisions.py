"""Each precision approximates fp32, has cuts of its own type, and gives a reason for each float layer."""

import re
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from compile.auto import SelectionData, fastest_per_segment
from compile.check import assert_chain_equals_whole
from compile.evaluate import Evaluator, compute_logits
from compile.fp16 import to_fp16
from compile.graph import IndexedGraph, MultiExitGraph, int8_macs_share
from compile.layer_sensitivity import measure_sensitivity
from compile.precisions import int8_notes
from compile.quantise import fp32_convolutions, quantise_int8
from compile.sensitive_layers import quantise_keeping_predictions
from edge.bundle import tensors
from edge.errors import CheckpointError
from edge.parity.compare import TOLERANCES, Tolerance
from tests.support.networks import compile_graph, multi_exit_graph, random_images

NAMES = ("tiny cnn", "residual", "two tensors", "five exits")
IMAGES = random_images(64)
SAMPLES = random_images(32, seed=1)

each_network = pytest.mark.parametrize("name", NAMES)


def selection(name: str) -> SelectionData:
    labels = compute_logits(multi_exit_graph(name, "fp32"), IMAGES)[-1].argmax(axis=-1)
    return SelectionData(IMAGES, labels.astype(np.int64), SAMPLES, "max")


def changed(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the share of changed predictions at each exit."""
    share: NDArray[np.float64] = (logits.argmax(axis=-1) != expected.argmax(axis=-1)).mean(axis=1)
    return share


# fp16


@each_network
def test_fp16_equals_fp32_up_to_rounding(name: str) -> None:
    fp32 = multi_exit_graph(name, "fp32")
    fp16 = to_fp16(fp32, SAMPLES)
    np.testing.assert_allclose(compute_logits(fp16, IMAGES), compute_logits(fp32, IMAGES), atol=0.02)


def test_large_images_are_computed_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, sizes = multi_exit_graph("tiny cnn", "fp32"), []
    expected = compute_logits(graph, IMAGES)
    compute = Evaluator.__call__

    def record_size(self: Evaluator, values: Any) -> Any:
        sizes.append(len(values["image"]))
        return compute(self, values)

    monkeypatch.setattr(Evaluator, "__call__", record_size)
    for limit, largest in ((3 * IMAGES[0].nbytes, 3), (1, 1)):
        monkeypatch.setattr("compile.evaluate.BATCH_BYTES", limit)
        np.testing.assert_allclose(compute_logits(graph, IMAGES[:7]), expected[:, :7], rtol=1e-5, atol=1e-5)
        assert max(sizes) == largest
        sizes.clear()


@each_network
def test_cuts_of_fp16_segments_are_fp16_and_their_decisions_fp32(name: str) -> None:
    whole, segments = compile_graph(to_fp16(multi_exit_graph(name, "fp32"), SAMPLES))
    assert_chain_equals_whole(whole, segments, IMAGES[:4])
    for k, segment in enumerate(segments):
        indexed = IndexedGraph(segment.model)
        dtypes = {tensors.label(k): "int32", tensors.exit_flag(k): "bool"}
        dtypes |= dict.fromkeys((*segment.cuts_in, *segment.cuts_out), "float16")
        for tensor in (*segment.inputs, *segment.outputs):
            assert indexed.spec(tensor).dtype == dtypes.get(tensor, "float32"), tensor


@each_network
def test_every_convolution_of_an_fp16_segment_has_fp16_weights(name: str) -> None:
    for segment in compile_graph(to_fp16(multi_exit_graph(name, "fp32"), SAMPLES)).segments:
        indexed = IndexedGraph(segment.model)
        convolutions = [node for node in indexed.nodes if node.op_type == "Conv"]
        assert convolutions
        for node in convolutions:
            assert indexed.initializers[node.input[1]].data_type == onnx.TensorProto.FLOAT16


def test_conversion_to_fp16_does_not_change_the_graph() -> None:
    fp32 = multi_exit_graph("tiny cnn", "fp32").model
    before = fp32.SerializeToString(deterministic=True)
    to_fp16(multi_exit_graph("tiny cnn", "fp32"), SAMPLES)
    assert fp32.SerializeToString(deterministic=True) == before


def scale_initializer(graph: MultiExitGraph, name: str, factor: float, where: object = ...) -> None:
    """Multiply an initializer, or the part of it at an index, in place."""
    [tensor] = [tensor for tensor in graph.model.graph.initializer if tensor.name == name]
    values = numpy_helper.to_array(tensor).copy()
    values[where] *= np.float32(factor)  # type: ignore[index]
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def first_convolution(graph: MultiExitGraph) -> NodeProto:
    [node] = IndexedGraph(graph.model).consumers["image"]
    return node


def with_scaled_first_convolution(graph: MultiExitGraph, factor: float) -> MultiExitGraph:
    """Return a copy of a graph whose first convolution has a larger output."""
    scaled = graph.copy()
    for name in first_convolution(scaled).input[1:]:
        scale_initializer(scaled, name, factor)
    return scaled


def test_tensors_too_large_for_fp16_are_refused_with_the_node_that_computes_them() -> None:
    graph = with_scaled_first_convolution(multi_exit_graph("tiny cnn", "fp32"), 1e5)
    node = first_convolution(graph).name
    with pytest.raises(CheckpointError, match=rf"computed by {node} \(Conv\), is too large for fp16"):
        to_fp16(graph, iter(SAMPLES))


def test_weights_too_large_for_fp16_are_refused_and_not_clipped() -> None:
    graph = with_scaled_first_convolution(multi_exit_graph("tiny cnn", "fp32"), 1e7)
    node = first_convolution(graph).name
    with pytest.raises(CheckpointError, match=rf"the weight \S+ of {node} \(Conv\) is too large for fp16"):
        to_fp16(graph, iter(SAMPLES))


# int8


def test_an_unknown_calibration_method_is_refused_and_not_treated_as_max() -> None:
    with pytest.raises(CheckpointError, match="no calibration method 'percentile'; choose max or entropy"):
        quantise_int8(multi_exit_graph("tiny cnn", "fp32"), SAMPLES, method="percentile")


def test_the_two_calibration_methods_choose_different_ranges() -> None:
    fp32 = multi_exit_graph("tiny cnn", "fp32")
    by_entropy, by_max = (quantise_int8(fp32, SAMPLES, method=method) for method in ("entropy", "max"))
    assert not np.array_equal(compute_logits(by_entropy, IMAGES), compute_logits(by_max, IMAGES))


@each_network
def test_each_convolution_that_stays_fp32_has_its_reason(name: str) -> None:
    fp32, quantised = multi_exit_graph(name, "fp32"), IndexedGraph(multi_exit_graph(name, "int8").model)
    reasons = fp32_convolutions(fp32)
    in_fp32 = {node.name for node in quantised.nodes if node.op_type == "Conv" and not quantised.is_int8(node)}
    assert in_fp32 == set(reasons)
    assert all(reasons.values())


@each_network
def test_correcting_biases_removes_the_mean_shift_of_the_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fp32 = multi_exit_graph(name, "fp32")
    expected = compute_logits(fp32, SAMPLES)
    corrected = compute_logits(quantise_int8(fp32, SAMPLES), SAMPLES)
    monkeypatch.setattr("compile.quantise.correct_biases", lambda graph, int8, samples: int8)
    uncorrected = compute_logits(quantise_int8(fp32, SAMPLES), SAMPLES)
    assert np.abs((uncorrected - expected).mean(axis=1)).max() > 1e-5
    np.testing.assert_allclose((corrected - expected).mean(axis=1), 0, atol=1e-6)


# auto

NO_LIMITS = Tolerance(float("inf"), 0.0, 0.0, 1.0, 1.0)


def tolerate(monkeypatch: pytest.MonkeyPatch, tolerance: Tolerance) -> None:
    monkeypatch.setitem(TOLERANCES, "auto", tolerance)


@each_network
def test_auto_is_int8_where_int8_keeps_the_predictions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tolerate(monkeypatch, NO_LIMITS)
    mixed, reasons = fastest_per_segment(multi_exit_graph(name, "fp32"), selection(name))
    assert mixed == quantise_int8(multi_exit_graph(name, "fp32"), SAMPLES, method="max")
    assert [reason.split(":")[0] for reason in reasons] == [f"segment {k}" for k in range(len(reasons))]
    assert all(": int8, keeps the predictions of every exit" in reason for reason in reasons)


@each_network
@pytest.mark.parametrize("allowed", ["fp16", "fp32"])
def test_auto_is_the_next_wider_precision_where_int8_changes_every_exit(
    name: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp32 = multi_exit_graph(name, "fp32")
    expected = compute_logits(fp32, IMAGES)
    fp16_error = np.abs(compute_logits(to_fp16(fp32, SAMPLES), IMAGES) - expected).max()
    bound = float(fp16_error) if allowed == "fp16" else 0.0
    tolerate(monkeypatch, NO_LIMITS._replace(max_abs_logit_error=bound))
    mixed, reasons = fastest_per_segment(fp32, selection(name))
    whole, segments = compile_graph(mixed)
    assert_chain_equals_whole(whole, segments, IMAGES[:4])
    assert int8_macs_share(mixed.model) == 0
    assert all(f": {allowed}, " in reason and "at exit" in reason for reason in reasons)
    assert np.abs(compute_logits(mixed, IMAGES) - expected).max() <= bound


def test_a_segment_whose_predictions_change_in_fp16_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    fp32 = multi_exit_graph("tiny cnn", "fp32").copy()
    name = IndexedGraph(fp32.model).producer["logits_2"].input[2]
    [bias] = [tensor for tensor in fp32.model.graph.initializer if tensor.name == name]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(20_000), bias.name))
    expected = compute_logits(fp32, IMAGES)
    tolerate(monkeypatch, NO_LIMITS._replace(max_abs_logit_error=0.0))  # int8 itself changes no prediction
    mixed, reasons = fastest_per_segment(fp32, selection("tiny cnn"))
    assert changed(compute_logits(to_fp16(fp32, SAMPLES), IMAGES), expected)[2] > 0.1
    np.testing.assert_array_equal(compute_logits(mixed, IMAGES), expected)
    assert re.search(
        r": fp32, fp16 in this segment alone changes [1-9]\d\.\d+% of the predictions at exit 2", reasons[2]
    )


def with_outlier_channel(graph: MultiExitGraph, factor: float = 1e4) -> MultiExitGraph:
    """Return an equivalent graph whose first convolution has one channel far larger than the others.

    With one scale for all channels of a tensor, int8 then rounds the other channels to zero.
    """
    scaled = graph.copy()
    indexed, convolution = IndexedGraph(scaled.model), first_convolution(scaled)
    for name in convolution.input[1:]:
        scale_initializer(scaled, name, factor, where=0)
    [relu] = indexed.consumers[convolution.output[0]]
    for reader in indexed.consumers[relu.output[0]]:
        scale_initializer(scaled, reader.input[1], 1 / factor, where=(slice(None), 0))
    return scaled


@pytest.mark.parametrize("name", ["tiny cnn", "five exits"])
def test_only_segments_that_change_predictions_are_not_int8(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tolerate(monkeypatch, NO_LIMITS._replace(top1_agreement=0.97))
    fp32 = with_outlier_channel(multi_exit_graph(name, "fp32"))
    expected = compute_logits(fp32, IMAGES)
    np.testing.assert_allclose(expected, compute_logits(multi_exit_graph(name, "fp32"), IMAGES), atol=1e-4)
    assert changed(compute_logits(quantise_int8(fp32, SAMPLES, method="max"), IMAGES), expected).max() > 0.03
    mixed, reasons = fastest_per_segment(fp32, selection(name))
    is_int8 = [": int8, " in reason for reason in reasons]
    assert not all(is_int8[:2])
    assert all(is_int8[2:])
    assert changed(compute_logits(mixed, IMAGES), expected).max() <= 0.03
    whole, segments = compile_graph(mixed)
    assert_chain_equals_whole(whole, segments, IMAGES[:4])
    assert [int8_macs_share(segment.model) > 0.5 for segment in segments] == is_int8


def test_a_segment_that_overflows_in_fp16_is_fp32_and_its_note_gives_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tolerate(monkeypatch, NO_LIMITS._replace(max_abs_logit_error=0.0))
    fp32 = with_scaled_first_convolution(multi_exit_graph("tiny cnn", "fp32"), 1e5)
    _, reasons = fastest_per_segment(fp32, selection("tiny cnn"))
    assert reasons[0].startswith("segment 0: fp32, int8 in this segment alone changes")
    assert "fp16 overflows" in reasons[0]
    assert "--precision" not in reasons[0]


# int8 with sensitive convolutions in fp32


def changed_by(graph: MultiExitGraph, expected: NDArray[np.float32]) -> float:
    """Return the largest number of changed predictions at an exit."""
    return float(changed(compute_logits(graph, IMAGES), expected).max() * len(IMAGES))


def test_int8_that_keeps_the_predictions_has_no_sensitive_convolution() -> None:
    fp32 = multi_exit_graph("tiny cnn", "fp32")
    int8, sensitive = quantise_keeping_predictions(fp32, SAMPLES, IMAGES)
    assert not sensitive
    assert int8 == quantise_int8(fp32, SAMPLES)


@pytest.mark.parametrize("name", ["tiny cnn", "five exits"])
def test_few_sensitive_convolutions_stay_fp32_and_keep_the_predictions(name: str) -> None:
    fp32 = with_outlier_channel(multi_exit_graph(name, "fp32"))
    expected = compute_logits(fp32, IMAGES)
    int8, sensitive = quantise_keeping_predictions(fp32, SAMPLES, IMAGES)
    assert changed_by(quantise_int8(fp32, SAMPLES), expected) > 1
    assert changed_by(int8, expected) <= 1  # of 64
    assert 1 <= len(sensitive) < len(measure_sensitivity(fp32, quantise_int8(fp32, SAMPLES), IMAGES[:1]))
    indexed = IndexedGraph(int8.model)
    in_fp32 = {node.name for node in indexed.nodes if node.op_type == "Conv" and not indexed.is_int8(node)}
    assert in_fp32 == {*fp32_convolutions(fp32), *sensitive}
    assert sum("it is sensitive" in note for note in int8_notes(fp32, int8, sensitive)) == 1


def test_int8_that_never_keeps_the_predictions_is_the_best_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compile.sensitive_layers.MAX_CHANGED", -1.0)
    fp32 = multi_exit_graph("tiny cnn", "fp32")
    int8, sensitive = quantise_keeping_predictions(fp32, SAMPLES, IMAGES)
    indexed, expected = IndexedGraph(int8.model), compute_logits(fp32, IMAGES)
    assert any(node.op_type == "Conv" and indexed.is_int8(node) for node in indexed.nodes)
    assert changed_by(int8, expected) <= changed_by(quantise_int8(fp32, SAMPLES), expected)
    assert (changed_by(int8, expected) < changed_by(quantise_int8(fp32, SAMPLES), expected)) == bool(sensitive)


# sensitivity


@pytest.mark.parametrize("name", ["tiny cnn", "two tensors", "five exits"])  # an Add is quantised with its neighbour
def test_the_sensitivity_of_a_convolution_equals_that_of_quantising_it_alone(name: str) -> None:
    fp32 = multi_exit_graph(name, "fp32")
    int8 = quantise_int8(fp32, IMAGES, method="max")
    nodes, float_names = IndexedGraph(fp32.model).nodes, fp32_convolutions(fp32)
    expected = compute_logits(fp32, IMAGES)
    measured = {layer.layer: layer for layer in measure_sensitivity(fp32, int8, IMAGES)}
    convolutions = [node for node in nodes if node.op_type == "Conv" and node.name not in float_names]
    assert set(measured) == {node.input[1].removeprefix("network.") for node in convolutions}
    for node in convolutions:
        others = [other.name for other in nodes if other.name != node.name]
        alone = compute_logits(quantise_int8(fp32, IMAGES, method="max", exclude=others), IMAGES)
        layer = measured[node.input[1].removeprefix("network.")]
        assert layer.logit_change == pytest.approx(float(np.abs(alone - expected).mean()), rel=0.02, abs=1e-5)
        assert layer.changed_predictions == pytest.approx(changed(alone, expected).tolist(), abs=1 / 64 + 1e-9)


def test_the_most_sensitive_convolution_comes_first_and_shares_sum_to_the_int8_share() -> None:
    fp32, int8 = multi_exit_graph("residual", "fp32"), multi_exit_graph("residual", "int8")
    layers = measure_sensitivity(fp32, int8, IMAGES[:8])
    changes = [layer.logit_change for layer in layers]
    assert changes == sorted(changes, reverse=True)
    assert 0.5 < sum(layer.macs_share for layer in layers) < 1
