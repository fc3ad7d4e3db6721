"""Cuts that later stages read in another layout are moved, and shapes are read from a segment's own tensors."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compile.evaluate import Evaluator
from compile.export import export_onnx
from compile.fp16 import to_fp16
from compile.graph import IndexedGraph, MultiExitGraph
from compile.quantise import quantise_int8
from edge.errors import CheckpointError
from edge.training.network import AttentionHead, Backbone, MultiExitNetwork, conv_bn_relu
from tests.compile.test_cut import chain, exit_outputs
from tests.support.networks import CHANNELS, INPUT, WIDTH, compile_graph, random_images, seeded_network


class Tokens(Backbone):
    """Two stages on tokens with a class token; the features of each are a map of the other tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(CHANNELS, WIDTH, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])

    def forward(self, image: Tensor) -> list[tuple[Tensor, ...]]:
        features = self.stem(image)
        tokens = torch.cat([self.token.expand(image.shape[0], -1, -1), features.flatten(2).transpose(1, 2)], dim=1)
        maps: list[tuple[Tensor, ...]] = []
        for layer in self.layers:
            tokens = tokens + torch.relu(layer(tokens)) * tokens.mean(dim=1, keepdim=True)
            size = features.shape[-2:]
            maps.append((tokens[:, 1:].transpose(1, 2).reshape(image.shape[0], WIDTH, *size),))
        return maps


class BatchReader(Backbone):
    """A second stage with a tensor of the image's batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_bn_relu(CHANNELS, WIDTH), conv_bn_relu(WIDTH, WIDTH, stride=2)
        self.offset = nn.Parameter(torch.randn(1, WIDTH, 1, 1))

    def forward(self, image: Tensor) -> list[tuple[Tensor, ...]]:
        first = self.first(image)
        offsets = self.offset.expand(image.shape[0], -1, first.shape[2], first.shape[3])
        grouped = (first * offsets).reshape(image.shape[0], 2, WIDTH // 2, *first.shape[2:]).flip(1)
        return [(first,), (self.second(grouped.reshape(image.shape[0], WIDTH, *first.shape[2:]) + first),)]


NETWORKS = {"tokens": Tokens, "batch": BatchReader}


def graph_of(name: str, precision: str) -> MultiExitGraph:
    heads = [AttentionHead(WIDTH, 4), AttentionHead(WIDTH, 4)]
    graph = export_onnx(seeded_network(lambda: MultiExitNetwork(NETWORKS[name](), heads)), INPUT)
    samples = random_images(32, seed=1)
    converters = {
        "fp32": lambda: graph,
        "fp16": lambda: to_fp16(graph, samples),
        "int8": lambda: quantise_int8(graph, samples),
    }
    return converters[precision]()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_segments_equal_the_network_for_every_batch_size(name: str, precision: str) -> None:
    whole, segments = compile_graph(graph_of(name, precision))
    assert segments[1].inputs == ("cut_0",)
    for batch in (1, 3):
        values = {"image": random_images(batch), "threshold_0": np.ones(1, np.float32)}
        expected, outputs = Evaluator(whole.model)(values), chain(segments)(values)
        for output in exit_outputs(whole):
            tolerance = 0.02 if precision == "fp16" else 0
            np.testing.assert_allclose(outputs[output], expected[output], atol=tolerance, rtol=0)


def test_the_cut_of_tokens_is_all_tokens_and_the_head_reads_them_as_a_map() -> None:
    _, segments = compile_graph(graph_of("tokens", "fp32"))
    assert IndexedGraph(segments[0].model).spec("cut_0").shape == (None, 37, WIDTH)
    assert IndexedGraph(segments[0].model).spec("attention_0").shape == (None, 1, 6, 6)
    assert IndexedGraph(segments[1].model).spec("attention_1").shape == (None, 1, 6, 6)


def test_errors_of_onnxruntime_name_the_reason_and_a_remedy() -> None:
    model = graph_of("batch", "fp32").model
    with pytest.raises(CheckpointError, match=r"ONNX Runtime .* cannot run this network .*another precision"):
        Evaluator(model)({"image": np.zeros((1, CHANNELS + 1, 12, 12), np.float32)})
    model.graph.node[0].op_type = "Unheard"
    with pytest.raises(CheckpointError, match=r"ONNX Runtime .* cannot load this network"):
        Evaluator(model)


class FixedBatch(Backbone):
    """A backbone in which `len` makes the exporter take the example's batch size for constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(CHANNELS, WIDTH)

    def forward(self, image: Tensor) -> list[tuple[Tensor, ...]]:
        features = self.stem(image)
        return [(features.reshape(len(image), WIDTH, 12, 12),)]


def test_a_network_for_one_batch_size_is_refused() -> None:
    network = MultiExitNetwork(FixedBatch(), [AttentionHead(WIDTH, 4)])
    with pytest.raises(CheckpointError, match=r"only for batches of 2 images"):
        export_onnx(network.eval(), INPUT)
