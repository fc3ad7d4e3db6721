"""Segments in a row are the network they were cut from: the same numbers, each computed once, int8 where it was."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from compile.check import Evaluator, assert_chain_equals_whole
from compile.cut import Segment, assert_faithful, cut_segments, whole_network
from compile.decision_ops import add_decisions
from compile.export import NEWEST_IR, OPSET, export_onnx
from compile.graph import QUANTISERS, Graph, int8_macs_share, parameter_count, total_macs
from edge.errors import CheckpointError
from edge.training.network import AttentionHead, MultiExitNetwork, Stages, conv_bn_relu
from tests.support.networks import (
    CHANNELS,
    INPUT,
    NETWORKS,
    PRECISIONS,
    WIDTH,
    built_in_graph,
    compiled,
    decided_and_cut,
    multi_exit_graph,
    random_images,
    settled,
    tiny_cnn,
)

each_network = pytest.mark.parametrize("name", NETWORKS)
each_precision = pytest.mark.parametrize("precision", PRECISIONS)
USUAL_INPUTS = {"cnn": (1, 28, 28), "resnet18": (3, 224, 224), "mobilenet": (3, 64, 64)}
each_built_in = pytest.mark.parametrize(("backbone", "shape"), USUAL_INPUTS.items())

CUTS = {"two tensors": ["cut_{k}_0", "cut_{k}_1"]}
"""What a cut is called where it is not one tensor, `cut_{k}`."""


def cuts(name: str, k: int) -> list[str]:
    return [pattern.format(k=k) for pattern in CUTS.get(name, ["cut_{k}"])]


def in_a_row(segments: Sequence[Segment]) -> Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
    evaluate = [Evaluator(segment.model) for segment in segments]

    def run(given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        tensors = dict(given)
        for step in evaluate:
            tensors |= step(tensors)
        return tensors

    return run


def int8_convolutions(model: ModelProto) -> set[str]:
    graph = Graph(model)
    return {node.name for node in graph.nodes if node.op_type == "Conv" and graph.is_int8(node)}


def weights_of(model: ModelProto) -> list[str]:
    return [tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1]


def naive_slices(whole: ModelProto, exits: int) -> list[Segment]:
    """Slice at the cuts' own names, where a float tensor is, as onnx's own extractor does it."""
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(whole))
    segments = []
    for k in range(exits):
        early = k < exits - 1
        inputs = [f"cut_{k - 1}" if k else "image"] + [f"threshold_{k}"] * early
        outputs = [f"cut_{k}"] * early + [f"logits_{k}", f"attention_{k}", f"confidence_{k}", f"label_{k}"]
        outputs += [f"exit_{k}"] * early
        segments.append(Segment(extractor.extract_model(inputs, outputs), inputs, outputs))
    return segments


def copied(segment: Segment) -> Segment:
    model = ModelProto()
    model.CopyFrom(segment.model)
    return Segment(model, list(segment.inputs), list(segment.outputs))


@each_precision
@each_network
@pytest.mark.parametrize("batch", [1, 5])
def test_segments_in_a_row_compute_the_whole_graph_bit_for_bit(name: str, precision: str, batch: int) -> None:
    whole, segments = compiled(name, precision)
    evaluate, evaluate_chain = Evaluator(whole), in_a_row(segments)
    for seed, threshold in product(range(3), (0.0, 0.35, 2.0)):
        images = random_images(batch, seed) * np.float32(10.0 ** (seed - 1))
        thresholds = {f"threshold_{k}": np.array([threshold], np.float32) for k in range(len(segments) - 1)}
        expected = evaluate({"image": images, **thresholds})
        found = evaluate_chain({"image": images, **thresholds})
        for output in (output for output in expected if not output.startswith("cut_")):
            assert found[output].dtype == expected[output].dtype
            assert found[output].tobytes() == expected[output].tobytes(), output


@each_precision
@each_network
def test_every_node_and_every_weight_is_in_exactly_one_segment(name: str, precision: str) -> None:
    whole, segments = compiled(name, precision)
    nodes = Counter(node.name for segment in segments for node in segment.model.graph.node)
    weights = Counter(weight for segment in segments for weight in weights_of(segment.model))
    outputs = [output.name for output in whole.graph.output if not output.name.startswith("cut_")]
    for node in Graph(whole).ancestors(outputs):
        assert nodes.pop(node.name) == 1 or node.op_type in QUANTISERS, node.name
    assert not nodes
    assert weights == Counter(weights_of(whole))
    assert sum(parameter_count(segment.model) for segment in segments) == parameter_count(whole)


@each_network
def test_every_convolution_quantised_in_the_whole_is_quantised_in_its_segment(name: str) -> None:
    whole, segments = compiled(name, "int8")
    convolutions = [node for node in whole.graph.node if node.op_type == "Conv"]
    found = set[str]().union(*(int8_convolutions(segment.model) for segment in segments))
    assert found == int8_convolutions(whole)
    assert len(found) == len(convolutions) - len(segments)  # one in each head makes the attention map, in float


@each_network
def test_in_int8_what_is_handed_over_is_int8_and_the_next_segment_begins_with_dequantising_it(name: str) -> None:
    segments = compiled(name, "int8").segments
    for k, (before, after) in enumerate(pairwise(segments)):
        for cut in cuts(name, k):
            assert Graph(before.model).spec(cut) == Graph(after.model).spec(cut)
            assert Graph(after.model).spec(cut).dtype == "int8"
            assert {reader.op_type for reader in Graph(after.model).consumers[cut]} == {"DequantizeLinear"}


@each_network
def test_in_fp32_what_is_handed_over_is_float(name: str) -> None:
    segments = compiled(name, "fp32").segments
    found = {Graph(s.model).spec(cut).dtype for k, s in enumerate(segments[:-1]) for cut in cuts(name, k)}
    assert found == {"float32"}


@each_precision
@each_network
def test_segments_take_and_give_exactly_the_tensors_of_the_contract(name: str, precision: str) -> None:
    segments = compiled(name, precision).segments
    for k, segment in enumerate(segments):
        early = k < len(segments) - 1
        inputs = (cuts(name, k - 1) if k else ["image"]) + [f"threshold_{k}"] * early
        outputs = (cuts(name, k) if early else []) + [f"{kind}_{k}" for kind in ("logits", "attention")]
        outputs += [f"confidence_{k}", f"label_{k}"] + [f"exit_{k}"] * early
        assert [tensor.name for tensor in segment.model.graph.input] == segment.inputs == inputs
        assert sorted(tensor.name for tensor in segment.model.graph.output) == sorted(segment.outputs)
        assert sorted(segment.outputs) == sorted(outputs)
        specs = {kind: Graph(segment.model).spec(f"{kind}_{k}") for kind in ("logits", "confidence", "label")}
        assert {kind: (spec.dtype, spec.shape) for kind, spec in specs.items()} == {
            "logits": ("float32", (None, 4)),
            "confidence": ("float32", (None,)),
            "label": ("int32", (None,)),
        }
        if early:
            flag, threshold = (Graph(segment.model).spec(f"{kind}_{k}") for kind in ("exit", "threshold"))
            assert (flag.dtype, flag.shape, threshold.dtype, threshold.shape) == ("bool", (None,), "float32", (1,))


@each_precision
@each_network
def test_every_file_can_be_read_by_the_last_onnx_runtime_of_jetpack_6(name: str, precision: str) -> None:
    whole, segments = compiled(name, precision)
    for model in (whole, whole_network(whole).model, *(segment.model for segment in segments)):
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version <= NEWEST_IR == 10
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
        assert OPSET <= 20


@each_precision
def test_the_network_without_early_exits_gives_the_last_exits_answer(precision: str) -> None:
    whole, segments = compiled("residual", precision)
    alone = whole_network(whole)
    images = random_images(3)
    found = Evaluator(alone.model)({"image": images})
    expected = in_a_row(segments)({"image": images, **{f"threshold_{k}": np.ones(1, np.float32) for k in (0, 1)}})
    assert alone.inputs == ["image"]
    assert list(found) == ["logits_2", "confidence_2", "label_2"]
    assert all(found[output].tobytes() == expected[output].tobytes() for output in found)


def test_a_network_with_one_exit_is_one_segment() -> None:
    whole, segments = decided_and_cut(export_onnx(settled(tiny_cnn).truncated(1), INPUT))
    assert [(segment.inputs, sorted(segment.outputs)) for segment in segments] == [
        (["image"], ["attention_0", "confidence_0", "label_0", "logits_0"])
    ]
    assert_chain_equals_whole(whole, segments, random_images(1))


def test_cutting_leaves_the_graph_that_is_cut_as_it_was() -> None:
    whole = add_decisions(multi_exit_graph("tiny cnn", "int8"))
    before = whole.SerializeToString(deterministic=True)
    cut_segments(whole)
    assert whole.SerializeToString(deterministic=True) == before


class Remembering(nn.Module):
    """A first stage that keeps a tensor it does not hand over."""

    def __init__(self, keep: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = conv_bn_relu(CHANNELS, WIDTH), conv_bn_relu(WIDTH, WIDTH)
        self.keep, self.kept = keep, torch.zeros(())

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.first(image)
        self.kept = self.keep(image, hidden)
        return self.second(hidden)


class Recalling(nn.Module):
    """A later stage that reads the tensor which the first one kept."""

    def __init__(self, memory: Remembering) -> None:
        super().__init__()
        self.memory = [memory]  # in a list, so that its weights are not counted as this stage's
        self.convolution = conv_bn_relu(WIDTH, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        return self.convolution(features) + self.memory[0].kept


@pytest.mark.parametrize(
    ("keep", "complaint"),
    [
        pytest.param(lambda image, hidden: image.mean(dim=1, keepdim=True), "reads image around the cut", id="image"),
        pytest.param(lambda image, hidden: hidden, "around", id="a tensor inside the first stage"),
    ],
)
def test_a_stage_that_reads_around_the_cut_before_it_is_refused(
    keep: Callable[[Tensor, Tensor], Tensor], complaint: str
) -> None:
    memory = Remembering(keep)
    heads = [AttentionHead(WIDTH, 4), AttentionHead(WIDTH, 4)]
    network = MultiExitNetwork(Stages([memory, Recalling(memory)]), heads).eval()
    with pytest.raises(CheckpointError, match=complaint):
        decided_and_cut(export_onnx(network, INPUT))


class Dense(nn.Module):
    """A stage that hands on what it read beside what it made of it."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.convolution = conv_bn_relu(tensors * WIDTH, WIDTH)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return (self.convolution(torch.cat(tensors, dim=1)), *tensors)


def test_a_stage_that_hands_on_a_tensor_it_read_is_refused() -> None:
    """The exporter makes an Identity of such a tensor, and what reads it later reads around the cut."""

    def build() -> MultiExitNetwork:
        stages = [conv_bn_relu(CHANNELS, WIDTH), Dense(1), Dense(2)]
        return MultiExitNetwork(Stages(stages), [AttentionHead(WIDTH, 4) for _ in stages])

    with pytest.raises(CheckpointError, match="around"):
        decided_and_cut(export_onnx(settled(build), INPUT))


class Lavish(nn.Module):
    """A stage that hands on a tensor nobody reads, beside the one that the next stage does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.unread = conv_bn_relu(CHANNELS, WIDTH), conv_bn_relu(WIDTH, WIDTH)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.convolution(image)
        return features, self.unread(features)


class Modest(nn.Module):
    """A stage that reads the first of two tensors only."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = conv_bn_relu(WIDTH, WIDTH)

    def forward(self, features: Tensor, unread: Tensor) -> Tensor:
        read: Tensor = self.convolution(features)
        return read


def test_a_cut_that_no_later_stage_reads_is_refused() -> None:
    def build() -> MultiExitNetwork:
        return MultiExitNetwork(Stages([Lavish(), Modest()]), [AttentionHead(WIDTH, 4) for _ in range(2)])

    with pytest.raises(CheckpointError, match=r"node \S+ makes a cut that no later stage reads"):
        decided_and_cut(export_onnx(settled(build), INPUT))


@pytest.mark.parametrize("name", ["tiny cnn", "residual", "five exits"])
def test_slicing_at_the_float_tensor_would_lose_quantised_convolutions_and_is_refused(name: str) -> None:
    whole, segments = compiled(name, "int8")
    naive = naive_slices(whole, exits=len(segments))
    kept = set[str]().union(*(int8_convolutions(segment.model) for segment in naive))
    assert len(kept) < len(int8_convolutions(whole))
    with pytest.raises(CheckpointError, match="is quantised in the whole but not in segment 1"):
        assert_faithful(whole, naive)


def test_the_same_slices_of_a_float_graph_are_faithful() -> None:
    whole, segments = compiled("tiny cnn", "fp32")
    naive = naive_slices(whole, exits=len(segments))
    assert_faithful(whole, naive)
    assert_chain_equals_whole(whole, naive, random_images(2))


@each_precision
def test_segments_that_lack_or_repeat_a_part_of_the_network_are_refused(precision: str) -> None:
    whole, segments = compiled("tiny cnn", precision)
    with pytest.raises(CheckpointError, match=r"no segment computes .*decide_2_Softmax"):
        assert_faithful(whole, segments[:-1])
    with pytest.raises(CheckpointError, match="would run in segments 0 and 3"):
        assert_faithful(whole, [*segments, segments[0]])


@each_precision
@pytest.mark.parametrize("index", range(3))
def test_one_changed_weight_in_any_segment_is_found_before_the_bundle_is_written(precision: str, index: int) -> None:
    whole, segments = compiled("tiny cnn", precision)
    images = random_images(16)
    assert_chain_equals_whole(whole, segments, images)
    changed = copied(segments[index])
    weights = [tensor for tensor in changed.model.graph.initializer if len(tensor.dims) == 4]
    value = numpy_helper.to_array(weights[0]).copy()
    value.flat[np.abs(value).argmax()] *= -1
    weights[0].CopyFrom(numpy_helper.from_array(value, weights[0].name))
    damaged = [changed if segment is segments[index] else segment for segment in segments]
    with pytest.raises(CheckpointError, match=f"segment {index} computes another logits_{index}"):
        assert_chain_equals_whole(whole, damaged, images)


def test_a_network_whose_cut_feeds_an_addition_passes_the_check_of_the_compiler() -> None:
    """It would not if the check let ONNX Runtime fuse that addition into a convolution where it sees both."""
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
"""A graph of another quantiser's make: its cut is the float tensor before QuantizeLinear."""


@pytest.mark.parametrize(
    ("reads", "handed_over"),
    [
        pytest.param("p1", "int8", id="all read it quantised"),
        pytest.param("cut_0", "float32", id="one reads it in float"),
    ],
)
def test_a_cut_before_its_quantiser_is_handed_over_in_int8_if_nobody_reads_it_in_float(
    reads: str, handed_over: str
) -> None:
    whole, segments = decided_and_cut(onnx.parser.parse_model(HAND_MADE % reads))
    assert Graph(segments[1].model).spec("cut_0").dtype == handed_over
    assert int8_convolutions(segments[1].model) == {"conv_1"}
    assert_chain_equals_whole(whole, segments, random_images(4, shape=(2, 3, 3)))


@each_built_in
def test_nine_tenths_of_the_built_in_networks_convolutions_run_in_int8_in_every_segment(
    backbone: str, shape: tuple[int, int, int]
) -> None:
    whole, segments = decided_and_cut(built_in_graph(backbone, shape, "int8"))
    assert all(int8_macs_share(segment.model) >= 0.9 for segment in segments)
    assert_chain_equals_whole(whole, segments, random_images(1, shape=shape))


@each_built_in
def test_no_segment_of_the_built_in_networks_does_more_than_three_fifths_of_the_work(
    backbone: str, shape: tuple[int, int, int]
) -> None:
    segments = decided_and_cut(built_in_graph(backbone, shape, "fp32")).segments
    macs = [total_macs(segment.model) for segment in segments]
    assert max(macs) <= 0.6 * sum(macs)
