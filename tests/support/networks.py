"""Tiny networks with fixed random weights, as exported graphs, segments and files."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from compile.contents import SCORES, write_network
from compile.cut import Segment, cut_segments, whole_network
from compile.decision_ops import add_decisions
from compile.export import export_onnx
from compile.fp16 import to_fp16
from compile.graph import IndexedGraph, MultiExitGraph
from compile.quantise import quantise_int8
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import Candidate, InputSpec, PrecisionSpec, Thresholds
from edge.decision import NEVER
from edge.engines.base import Backend
from edge.engines.cache import load_engines
from edge.inference.classifier import Classifier
from edge.training.backbones import build_network
from edge.training.network import AttentionHead, MultiExitNetwork, Stages, conv_bn_relu

CHANNELS, SIZE, CLASSES, WIDTH = 3, 12, 4, 16
"""ModelOpt leaves convolutions with fewer than 16 channels in float."""
INPUT = InputSpec("array", None, CHANNELS, SIZE, SIZE, (0.0,) * CHANNELS, (1.0,) * CHANNELS)
PRECISIONS = ("fp32", "int8")


class Compiled(NamedTuple):
    """A network's multi-exit graph with decisions, and its segments."""

    whole: MultiExitGraph
    segments: list[Segment]


def tiny_cnn() -> MultiExitNetwork:
    """Return three stages of one convolution each."""
    stages = [
        conv_bn_relu(CHANNELS, WIDTH),
        conv_bn_relu(WIDTH, WIDTH, stride=2),
        conv_bn_relu(WIDTH, 2 * WIDTH),
    ]
    return MultiExitNetwork(Stages(stages), [_head(WIDTH), _head(WIDTH), _head(2 * WIDTH)])


def residual_network() -> MultiExitNetwork:
    """Return stages that add their input to their output: their cut feeds a convolution and an Add."""
    stages = [conv_bn_relu(CHANNELS, WIDTH), Residual(), nn.Sequential(Residual(), Residual())]
    return MultiExitNetwork(Stages(stages), [_head(WIDTH) for _ in stages])


def two_tensor_network() -> MultiExitNetwork:
    """Return stages that return two tensors, a fine and a coarse one, both read by the next stage."""
    stages = [Fork(), Exchange(), Join()]
    return MultiExitNetwork(Stages(stages), [_head(WIDTH) for _ in stages])


def concat_network() -> MultiExitNetwork:
    """Return stages that concatenate: before a cut, after another Concat, and before a ReLU."""
    width = 3 * WIDTH
    stages = [Concat(CHANNELS), Concat(width), nn.Sequential(Concat(width), nn.ReLU(), Concat(width))]
    return MultiExitNetwork(Stages(stages), [_head(width) for _ in stages])


def two_exit_network() -> MultiExitNetwork:
    """Return two stages."""
    stages = [conv_bn_relu(CHANNELS, WIDTH), conv_bn_relu(WIDTH, WIDTH)]
    return MultiExitNetwork(Stages(stages), [_head(WIDTH) for _ in stages])


def five_exit_network() -> MultiExitNetwork:
    """Return five stages."""
    stages = [conv_bn_relu(CHANNELS, WIDTH)] + [conv_bn_relu(WIDTH, WIDTH) for _ in range(4)]
    return MultiExitNetwork(Stages(stages), [_head(WIDTH) for _ in stages])


def tied_network() -> MultiExitNetwork:
    """Return a network whose first and last head give classes 1 and 2 equal and largest logits for every image."""
    network = tiny_cnn()
    for head, others in ((network.heads[0], 0.5), (network.heads[-1], 0.25)):
        nn.init.zeros_(head.classify.weight)
        head.classify.bias.data = torch.tensor([others, 1.0, 1.0, others])
    return network


class Residual(nn.Module):
    """A convolution beside an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH))

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.convolution(features) + features)


class Concat(nn.Module):
    """Three convolutions beside one another, two of which are concatenated first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, WIDTH, 1) for _ in range(3))

    def forward(self, features: Tensor) -> Tensor:
        first, second, third = (branch(features) for branch in self.branches)
        return torch.cat([torch.cat([first, second], dim=1), third], dim=1)


class Fork(nn.Module):
    """A stage from an image to two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = conv_bn_relu(CHANNELS, WIDTH), conv_bn_relu(WIDTH, WIDTH, stride=2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(image)
        return fine, self.coarse(fine)


class Exchange(nn.Module):
    """A stage from two tensors to two of the same shapes, each computed from both."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.down = conv_bn_relu(WIDTH, WIDTH), conv_bn_relu(WIDTH, WIDTH, stride=2)
        self.coarse = conv_bn_relu(WIDTH, WIDTH)

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        return self.fine(fine), self.coarse(coarse) + self.down(fine)


class Join(nn.Module):
    """A stage from two tensors to one."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.coarse = conv_bn_relu(WIDTH, WIDTH, stride=2), conv_bn_relu(WIDTH, WIDTH)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return self.down(fine) + self.coarse(coarse)


NETWORKS: dict[str, Callable[[], MultiExitNetwork]] = {
    "tiny cnn": tiny_cnn,
    "residual": residual_network,
    "two tensors": two_tensor_network,
    "five exits": five_exit_network,
    "tied": tied_network,
    "concat": concat_network,
    "two exits": two_exit_network,
}


def seeded_network(
    build: Callable[[], MultiExitNetwork], shape: tuple[int, int, int] = INPUT.shape
) -> MultiExitNetwork:
    """Return a network in evaluation mode, with seeded weights and batch statistics like those of a trained one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
        network.train()
        with torch.no_grad():
            for _ in range(4):
                network(torch.randn(8, *shape) + 0.3)
    return network.eval()


def random_images(count: int, seed: int = 0, shape: tuple[int, int, int] = INPUT.shape) -> NDArray[np.float32]:
    """Return network inputs, shape (count, channels, height, width)."""
    return np.random.default_rng(seed).normal(0.3, 1, (count, *shape)).astype(np.float32)


@cache
def multi_exit_graph(name: str, precision: str) -> MultiExitGraph:
    """Return one of `NETWORKS` exported, in fp32 or int8. It is shared: change a copy only."""
    if precision == "fp32":
        return export_onnx(seeded_network(NETWORKS[name]), INPUT)
    return quantise_int8(multi_exit_graph(name, "fp32"), random_images(32, seed=1), method="max")


@cache
def built_in_graph(backbone: str, shape: tuple[int, int, int], precision: str) -> MultiExitGraph:
    """Return a backbone of the project with ten classes, exported, in fp32, fp16 or int8. It is shared."""
    if precision == "fp32":
        spec = replace(INPUT, channels=shape[0], height=shape[1], width=shape[2])
        small = (shape[0], min(shape[1], 64), min(shape[2], 64))
        return export_onnx(seeded_network(lambda: build_network(backbone, shape[0], 10), small), spec)
    fp32, samples = built_in_graph(backbone, shape, "fp32"), random_images(2, seed=1, shape=shape)
    return to_fp16(fp32, samples) if precision == "fp16" else quantise_int8(fp32, samples, method="max")


@cache
def compiled(name: str, precision: str) -> Compiled:
    """Return one of `NETWORKS` with decisions and cut. It is shared: change a copy only."""
    return compile_graph(multi_exit_graph(name, precision))


def compile_graph(graph: MultiExitGraph) -> Compiled:
    """Add decisions to a multi-exit graph and cut it."""
    whole = add_decisions(graph)
    return Compiled(whole, cut_segments(whole))


def with_nan_logit(graph: MultiExitGraph, exit_index: int) -> Compiled:
    """Compile a multi-exit graph after making one logit of an exit NaN for every image."""
    damaged = graph.copy()
    name = IndexedGraph(damaged.model).producer[f"logits_{exit_index}"].input[2]
    [bias] = [tensor for tensor in damaged.model.graph.initializer if tensor.name == name]
    value = numpy_helper.to_array(bias).copy()
    value[1] = np.nan
    bias.CopyFrom(numpy_helper.from_array(value, name))
    return compile_graph(damaged)


def write_precision(folder: Path, network: Compiled, precision: str) -> PrecisionSpec:
    """Write a network's ONNX files into a new folder; its thresholds are never reached, its temperatures are 1."""
    folder.mkdir()
    files = write_network(folder, precision, network.segments, whole_network(network.whole))
    exits = len(files.segments)
    values = (NEVER,) * (exits - 1)
    candidates = (Candidate(values, None, None, mean_macs=1.0),)
    never = Thresholds(values, "accuracy_gap", 0.0, "none", None, samples=0, split="", candidates=candidates)
    scores = f"{precision}/{SCORES}"
    return PrecisionSpec(files.segments, files.whole, never, None, (1.0,) * exits, notes=(), scores=scores)


def classifier_of(
    folder: Path, spec: PrecisionSpec, backend: Backend, input_spec: InputSpec = INPUT, classes: int = 10
) -> Classifier:
    """Return one precision in a folder, with its fitted thresholds, as a classifier on a backend."""
    chain = ChainSpec(input_spec, tuple(map(str, range(classes))), spec.segments, spec.temperatures)
    return Classifier(
        chain,
        load_engines(folder, spec.segments, backend),
        spec.thresholds.values,
        load_batch_engines=lambda: load_engines(folder, spec.segments, backend, batch=None),
    )


def _head(channels: int) -> AttentionHead:
    return AttentionHead(channels, CLASSES, neck=conv_bn_relu(channels, channels), grid=2)
