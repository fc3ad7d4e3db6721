"""Cost of a frame over exits and image size, with one and two threads; weights are random, and all segments run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compile.contents import write_network
from compile.cut import cut_segments, whole_network
from compile.decision_ops import add_decisions
from compile.export import export_onnx
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import InputSpec
from edge.decision import NEVER, Prediction
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.frames.base import Frame, PixelFormat
from edge.inference.classifier import Classifier
from edge.measure.interleave import interleave
from edge.training.network import AttentionHead, MultiExitNetwork, Stages, conv_bn_relu

WIDTH, CLASSES, SIZE, EXITS = 32, 10, 32, 4
"""Network of both series: a convolution of the image, then stages of one convolution; fixed values of each series."""
THREADS = (1, 2)


@dataclass(frozen=True, slots=True)
class Growth:
    """Median time of a frame over a quantity that grows."""

    quantity: str
    threads: int
    values: tuple[int, ...]
    cost_ms: tuple[float, ...]

    @property
    def over_linear(self) -> float:
        """Growth of the cost over that of the quantity, from the smallest value to the largest; at most 1 if linear."""
        return (self.cost_ms[-1] / self.cost_ms[0]) / (self.values[-1] / self.values[0])


def over_exits(counts: Sequence[int], frames: int, folder: Path) -> list[Growth]:
    """Return the cost over the number of exits, which is also that of stages."""
    networks = {count: (count, SIZE) for count in counts}
    return _measure("exits", networks, frames, folder)


def over_pixels(sizes: Sequence[int], frames: int, folder: Path) -> list[Growth]:
    """Return the cost over the pixels of square images."""
    networks = {size * size: (EXITS, size) for size in sizes}
    return _measure("pixels", networks, frames, folder)


def _measure(quantity: str, networks: Mapping[int, tuple[int, int]], frames: int, folder: Path) -> list[Growth]:
    """Time the networks, given by exits and image size, in turns."""
    folders = [folder / f"{quantity}-{value}" for value in networks]
    chains = [write(*network, path) for network, path in zip(networks.values(), folders, strict=True)]
    growths = []
    for threads in THREADS:
        calls = [predictor(chain, path, threads) for chain, path in zip(chains, folders, strict=True)]
        interleave(calls, range(frames // 10 + 1))
        timed = interleave(calls, range(frames))
        costs = tuple(float(np.median(series.times_ms)) for series in timed)
        growths.append(Growth(quantity, threads, tuple(networks), costs))
    return growths


def write(exits: int, size: int, folder: Path) -> ChainSpec:
    """Write the segments of a random network, and return their chain."""
    stages = [conv_bn_relu(WIDTH, WIDTH) for _ in range(exits)]
    stages[0] = nn.Sequential(conv_bn_relu(3, WIDTH), stages[0])
    network = MultiExitNetwork(Stages(stages), [AttentionHead(WIDTH, CLASSES, grid=2) for _ in stages]).eval()
    spec = InputSpec("image", "rgb", 3, size, size, (0.5,) * 3, (0.25,) * 3)
    graph = add_decisions(export_onnx(network, spec))
    folder.mkdir(parents=True)
    segments = write_network(folder, "fp32", cut_segments(graph), whole_network(graph)).segments
    return ChainSpec(spec, tuple(map(str, range(CLASSES))), segments, (1.0,) * exits)


def predictor(chain: ChainSpec, folder: Path, threads: int) -> Callable[[Any], Prediction]:
    """Return the classification of one image of noise, to the last exit."""
    engines = load_engines(folder, chain.segments, OnnxRuntime(threads))
    classifier = Classifier(chain, engines, [NEVER] * (chain.exits - 1))
    noise = np.random.default_rng(0).integers(0, 256, (chain.input.height, chain.input.width, 3), dtype=np.uint8)
    frame = Frame(noise, PixelFormat.BGR)
    return lambda _: classifier.predict(frame)
