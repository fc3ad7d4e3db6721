"""A chain of segments equals the network it was cut from: same numbers, each node once, int8 kept."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from compile.check import assert_chain_equals_whole
from compile.cut import Segment, assert_complete, cut_segments, whole_network
from compile.decision_ops import add_decisions
from compile.evaluate import Evaluator
from compile.export import MAX_IR_VERSION, OPSET, export_onnx
from compile.graph import QUANTISERS, IndexedGraph, MultiExitGraph, parameter_count
from compile.quantise import fp32_convolutions
from edge.bundle import tensors
from edge.errors import CheckpointError
from edge.training.network import AttentionHead, MultiExitNetwork, Stages, conv_bn_relu
from tests.support.networks import (
    CHANNELS,
    INPUT,
    NETWORKS,
    PRECISIONS,
    WIDTH,
    compile_graph,
    compiled,
    multi_exit_graph,
    random_images,
    seeded_network,
    tiny_cnn,
)

each_network = pytest.mark.parametrize("name", NETWORKS)
each_precision = pytest.mark.parametrize("precision", PRECISIONS)

CUTS = {"two tensors": ["cut_{k}_0", "cut_{k}_1"]}
"""Names of the tensors of a cut that has several; otherwise it is `cut_{k}`."""


def cut_names(name: str, k: int) -> list[str]:
    return [pattern.format(k=k) for pattern in CUTS.get(name, ["cut_{k}"])]


def chain(segments: Sequence[Segment]) -> Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
    evaluators = [Evaluator(segment.model) for segment in segments]

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        values = dict(inputs)
        for evaluate in evaluators:
            values |= evaluate(values)
        return values

    return run


def int8_convolutions(model: ModelProto) -> set[str]:
    indexed = IndexedGraph(model)
    return {node.name for node in indexed.nodes if node.op_type == "Conv" and indexed.is_int8(node)}


def weight_names(model: ModelProto) -> list[str]:
    return [tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1]


def exit_outputs(graph: MultiExitGraph) -> list[str]:
    return [name for k in range(graph.exits) for name in graph.exit_outputs(k)]


def naive_slices(graph: MultiExitGraph) -> list[Segment]:
    """Slice at the float tensors named as the cuts, with the extractor of the onnx package."""
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(graph.model))
    segments = []
    for k in range(graph.exits):
        cut_in, cut_out = graph.cuts[k - 1] if k else (), graph.cuts[k] if k < graph.exits - 1 else ()
        inputs = [*(cut_in or [tensors.IMAGE]), *([tensors.threshold(k)] if cut_out else [])]
        model = extractor.extract_model(inputs, [*cut_out, *graph.exit_outputs(k)])
        segments.append(Segment(model, k, cut_in, cut_out))
    return segments


@each_precision
@each_network
@pytest.mark.parametrize("batch", [1, 5])
def test_a_chain_of_segments_equals_the_whole_graph_bit_for_bit(name: str, precision: str, batch: int) -> None:
    whole, segments = compiled(name, precision)
    evaluate, evaluate_chain = Evaluator(whole.model), chain(segments)
    for seed, threshold in product(range(3), (0.0, 0.35, 2.0)):
        images = random_images(batch, seed) * np.float32(10.0 ** (seed - 1))
        thresholds = {f"threshold_{k}": np.array([threshold], np.float32) for k in range(len(segments) - 1)}
        expected = evaluate({"image": images, **thresholds})
        outputs = evaluate_chain({"image": images, **thresholds})
        for output in exit_outputs(whole):
            assert outputs[output].dtype == expected[output].dtype
            assert outputs[output].tobytes() == expected[output].tobytes(), output


@each_precision
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "concat"])  # whose quantisers are moved
def test_every_node_and_every_weight_is_in_exactly_one_segment(name: str, precision: str) -> None:
    whole, segments = compiled(name, precision)
    nodes = Counter(node.name for segment in segments for node in segment.model.graph.node)
    weights = Counter(weight for segment in segments for weight in weight_names(segment.model))
    for node in IndexedGraph(whole.model).ancestors(exit_outputs(whole)):
        assert nodes.pop(node.name) == 1 or node.op_type in QUANTISERS, node.name
    assert not nodes
    assert weights == Counter(weight_names(whole.model))
    assert sum(parameter_count(segment.model) for segment in segments) == parameter_count(whole.model)


@each_network
def test_every_convolution_quantised_in_the_whole_is_quantised_in_its_segment(name: str) -> None:
    whole, segments = compiled(name, "int8")
    convolutions = [node for node in whole.model.graph.node if node.op_type == "Conv"]
    quantised = set[str]().union(*(int8_convolutions(segment.model) for segment in segments))
    assert quantised == int8_convolutions(whole.model)
    assert len(quantised) == len(convolutions) - len(fp32_convolutions(multi_exit_graph(name, "fp32")))


def test_no_result_of_a_concat_is_quantised_but_its_inputs_are() -> None:
    """OpenVINO drops the scale otherwise."""
    whole, segments = compiled("concat", "int8")
    for segment in (*segments, whole_network(whole)):
        indexed = IndexedGraph(segment.model)
        before = [indexed.producer.get(node.input[0]) for node in indexed.nodes if node.op_type == "QuantizeLinear"]
        assert not {node.op_type for node in before if node is not None} & {"Concat", "QuantizeLinear"}
        assert any(
            {indexed.producer[name].op_type for name in node.input} <= {"Concat", "QuantizeLinear"}
            for node in indexed.nodes
            if node.op_type == "Concat" and indexed.spec(node.output[0]).dtype == "int8"
        )
    assert [segment.cuts_out for segment in segments] == [("cut_0",), ("cut_1",), ()]


@each_network
def test_in_int8_the_cut_is_int8_and_the_next_segment_begins_with_dequantize_linear(name: str) -> None:
    segments = [IndexedGraph(segment.model) for segment in compiled(name, "int8").segments]
    for k, (before, after) in enumerate(pairwise(segments)):
        for cut in cut_names(name, k):
            assert before.spec(cut) == after.spec(cut)
            assert after.spec(cut).dtype == "int8"
            assert {node.op_type for node in after.consumers[cut]} == {"DequantizeLinear"}


@each_network
def test_in_fp32_the_cut_is_float(name: str) -> None:
    segments = [IndexedGraph(segment.model) for segment in compiled(name, "fp32").segments]
    dtypes = {segment.spec(cut).dtype for k, segment in enumerate(segments[:-1]) for cut in cut_names(name, k)}
    assert dtypes == {"float32"}


@each_precision
@each_network
def test_inputs_and_outputs_of_segments_are_exactly_those_of_the_contract(name: str, precision: str) -> None:
    segments = compiled(name, precision).segments
    for k, segment in enumerate(segments):
        early = k < len(segments) - 1
        cuts_in, cuts_out = cut_names(name, k - 1) if k else [], cut_names(name, k) if early else []
        inputs = (cuts_in or ["image"]) + [f"threshold_{k}"] * early
        outputs = cuts_out + [f"{kind}_{k}" for kind in ("logits", "attention", "confidence", "label")]
        outputs += [f"exit_{k}"] * early
        assert (segment.exit_index, segment.cuts_in, segment.cuts_out) == (k, tuple(cuts_in), tuple(cuts_out))
        assert [tensor.name for tensor in segment.model.graph.input] == list(segment.inputs) == inputs
        assert [tensor.name for tensor in segment.model.graph.output] == list(segment.outputs)
        assert sorted(segment.outputs) == sorted(outputs)
        indexed = IndexedGraph(segment.model)
        specs = {kind: indexed.spec(f"{kind}_{k}") for kind in ("logits", "confidence", "label")}
        assert {kind: (spec.dtype, spec.shape) for kind, spec in specs.items()} == {
            "logits": ("float32", (None, 4)),
            "confidence": ("float32", (None,)),
            "label": ("int32", (None,)),
        }
        if early:
            flag, threshold = (indexed.spec(f"{kind}_{k}") for kind in ("exit", "threshold"))
            assert (flag.dtype, flag.shape, threshold.dtype, threshold.shape) == ("bool", (None,), "float32", (1,))


@each_precision
@each_network
def test_the_last_onnx_runtime_for_jetpack_6_can_read_every_file(name: str, precision: str) -> None:
    whole, segments = compiled(name, precision)
    for model in (whole.model, whole_network(whole).model, *(segment.model for segment in segments)):
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version <= MAX_IR_VERSION == 10
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
        assert OPSET <= 20


@each_precision
def test_the_network_without_early_exits_has_the_outputs_of_the_last_exit(precision: str) -> None:
    whole, segments = compiled("residual", precision)
    alone = whole_network(whole)
    images = random_images(3)
    outputs = Evaluator(alone.model)({"image": images})
    expected = chain(segments)({"image": images, **{f"threshold_{k}": np.ones(1, np.float32) for k in (0, 1)}})
    assert (alone.inputs, alone.exit_index, alone.cuts_in, alone.cuts_out) == (("image",), 2, (), ())
    assert list(outputs) == ["logits_2", "confidence_2", "label_2"]
    assert all(outputs[name].tobytes() == expected[name].tobytes() for name in outputs)


def test_a_network_with_one_exit_is_one_segment() -> None:
    whole, segments = compile_graph(export_onnx(seeded_network(tiny_cnn).truncated(1), INPUT))
    assert [(segment.inputs, sorted(segment.outputs)) for segment in segments] == [
        (("image",), ["attention_0", "confidence_0", "label_0", "logits_0"])
    ]
    assert_chain_equals_whole(whole, segments, random_images(1))


def test_cutting_does_not_change_the_graph() -> None:
    whole = add_decisions(multi_exit_graph("tiny cnn", "int8"))
    before = whole.model.SerializeToString(deterministic=True)
    cut_segments(whole)
    assert whole.model.SerializeToString(deterministic=True) == before


class Remembering(nn.Module):
    """A first stage that keeps a tensor it does not return."""

    def __init__(self, keep: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = conv_bn_relu(CHANNELS, WIDTH), conv_bn_relu(WIDTH, WIDTH)
        self.keep, self.kept = keep, torch.zeros(())

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.first(image)
        self.kept = self.keep(image, hidden)
        return self.second(hidden)


class Recalling(nn.Module):
    """A later stage that reads the tensor kept by the first stage."""

    def __init__(self, memory: Remembering) -> None:
        super().__init__()
        self.memory = [memory]  # in a list, so that its weights are not counted as this stage's
        self.convolution = conv_bn_relu(WIDTH, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        return self.convolution(features) + self.memory[0].kept


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        pytest.param(
            lambda image, hidden: image.mean(dim=1, keepdim=True), "reads image, bypassing the cut", id="image"
        ),
        pytest.param(lambda image, hidden: hidden, "bypassing the cut", id="a tensor inside the first stage"),
    ],
)
def test_a_stage_that_bypasses_the_cut_before_it_is_refused(
    keep: Callable[[Tensor, Tensor], Tensor], message: str
) -> None:
    memory = Remembering(keep)
    heads = [AttentionHead(WIDTH, 4), AttentionHead(WIDTH, 4)]
    network = MultiExitNetwork(Stages([memory, Recalling(memory)]), heads).eval()
    with pytest.raises(CheckpointError, match=message):
        compile_graph(export_onnx(network, INPUT))


class Dense(nn.Module):
    """A stage that returns its inputs together with its output."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.convolution = conv_bn_relu(tensors * WIDTH, WIDTH)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return (self.convolution(torch.cat(tensors, dim=1)), *tensors)


def test_a_stage_that_returns_one_of_its_inputs_is_refused() -> None:
    """The exporter writes an Identity for such a tensor, and later stages bypass the cut."""

    def build() -> MultiExitNetwork:
        stages = [conv_bn_relu(CHANNELS, WIDTH), Dense(1), Dense(2)]
        return MultiExitNetwork(Stages(stages), [AttentionHead(WIDTH, 4) for _ in stages])

    with pytest.raises(CheckpointError, match=r"bypass(ing the|es a| a later) cut"):
        compile_graph(export_onnx(seeded_network(build), INPUT))


class UnreadOutput(nn.Module):
    """A stage that returns a tensor that the next stage reads, and another that no stage reads."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.unread = conv_bn_relu(CHANNELS, WIDTH), conv_bn_relu(WIDTH, WIDTH)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.convolution(image)
        return features, self.unread(features)


class FirstInputOnly(nn.Module):
    """A stage that reads only the first of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = conv_bn_relu(WIDTH, WIDTH)

    def forward(self, features: Tensor, unread: Tensor) -> Tensor:
        read: Tensor = self.convolution(features)
        return read


def test_a_cut_that_no_later_stage_reads_is_refused() -> None:
    def build() -> MultiExitNetwork:
        return MultiExitNetwork(Stages([UnreadOutput(), FirstInputOnly()]), [AttentionHead(WIDTH, 4) for _ in range(2)])

    with pytest.raises(CheckpointError, match=r"node \S+ computes a cut that no later stage reads"):
        compile_graph(export_onnx(seeded_network(build), INPUT))


@pytest.mark.parametrize("name", ["tiny cnn", "residual", "five exits"])
def test_slicing_at_the_float_tensor_would_lose_quantised_convolutions_and_is_refused(name: str) -> None:
    whole = compiled(name, "int8").whole
    naive = naive_slices(whole)
    quantised = set[str]().union(*(int8_convolutions(segment.model) for segment in naive))
    assert len(quantised) < len(int8_convolutions(whole.model))
    with pytest.raises(CheckpointError, match="is quantised in the whole graph but not in segment 1"):
        assert_complete(whole, naive)


def test_the_same_slices_of_a_float_graph_are_complete() -> None:
    whole = compiled("tiny cnn", "fp32").whole
    naive = naive_slices(whole)
    assert_complete(whole, naive)
    assert_chain_equals_whole(whole, naive, random_images(2))


@each_precision
def test_segments_that_lack_or_repeat_a_part_of_the_network_are_refused(precision: str) -> None:
    whole, segments = compiled("tiny cnn", precision)
    with pytest.raises(CheckpointError, match=r"no segment computes .*decide_2_Softmax"):
        assert_complete(whole, segments[:-1])
    with pytest.raises(CheckpointError, match="would run in segments 0 and 3"):
        assert_complete(whole, [*segments, segments[0]])


@each_precision
@pytest.mark.parametrize("index", range(3))
def test_one_changed_weight_in_any_segment_is_detected_before_the_bundle_is_written(precision: str, index: int) -> None:
    whole, segments = compiled("tiny cnn", precision)
    images = random_images(16)
    assert_chain_equals_whole(whole, segments, images)
    model = ModelProto()
    model.CopyFrom(segments[index].model)
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    value = numpy_helper.to_array(weights[0]).copy()
    value.flat[np.abs(value).argmax()] *= -1
    weights[0].CopyFrom(numpy_helper.from_array(value, weights[0].name))
    damaged = [replace(segment, model=model) if k == index else segment for k, segment in enumerate(segments)]
    with pytest.raises(CheckpointError, match=f"logits_{index} of segment {index} differs"):
        assert_chain_equals_whole(whole, damaged, images)


def test_a_network_whose_cut_feeds_an_addition_passes_the_check() -> None:
    """It would not if ONNX Runtime fused the addition into a convolution of the same graph."""
    assert_chain_equals_whole(*compiled("residual", "fp32"), random_images(16))


HAND_MADE = """
<ir_version: 10, opset_import: ["" : 20]>
hand_made (float[batch, 2, 3, 3] image)
=> (float[batch, 2] logits_0, float[batch, 2, 3, 3] cut_0, float[batch, 2] logits_1)
<float[2, 2, 1, 1] w0 = {1, -2, 3, 1}, float[2, 2, 1, 1] w1 = {2, 1, -1, 1}, float scale = {0.1}, int8 zero = {0}>
{
    [conv_0] c0 = Conv (image, w0)
    [relu] cut_0 = Relu (c0)
    [quantise] q = QuantizeLinear (cut_0, scale, zero)
    [dequantise] d = DequantizeLinear (q, scale, zero)
    [pool_0] p0 = GlobalAveragePool (d)
    [flat_0] logits_0 = Flatten (p0)
    [quantise_w1] qw1 = QuantizeLinear (w1, scale, zero)
    [dequantise_w1] dw1 = DequantizeLinear (qw1, scale, zero)
    [conv_1] c1 = Conv (d, dw1)
    [pool_1] p1 = GlobalAveragePool (c1)
    [add] s = Add (p1, %s)
    [flat_1] logits_1 = Flatten (s)
}
"""
"""A graph as another quantiser writes it: its cut is the float tensor before QuantizeLinear."""


@pytest.mark.parametrize(
    ("summand", "dtype"),
    [
        pytest.param("p1", "int8", id="all nodes read it quantised"),
        pytest.param("cut_0", "float32", id="a node reads it in float"),
    ],
)
def test_a_cut_before_its_quantiser_is_passed_on_in_int8_if_no_node_reads_it_in_float(summand: str, dtype: str) -> None:
    model = onnx.parser.parse_model(HAND_MADE % summand)
    whole, segments = compile_graph(MultiExitGraph(model, cuts=(("cut_0",),)))
    assert IndexedGraph(segments[1].model).spec("cut_0").dtype == dtype
    assert int8_convolutions(segments[1].model) == {"conv_1"}
    assert_chain_equals_whole(whole, segments, random_images(4, shape=(2, 3, 3)))
