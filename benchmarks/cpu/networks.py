"""Whole networks of 224x224 with random weights, in fp32 and int8 on OpenVINO: only their speed counts."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.cpu.variants import FP32_WHOLE_OV, INT8_WHOLE_OV, Row, Variant, time_streams
from compile.contents import write_segment
from compile.cut import whole_network
from compile.decision_ops import add_decisions
from compile.export import export_onnx
from compile.graph import MultiExitGraph
from compile.quantise import quantise_int8
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import InputSpec
from edge.engines import backend_named
from edge.engines.cache import load_engines
from edge.frames.base import Frame, PixelFormat
from edge.frames.preprocess import preprocess_batch
from edge.inference.classifier import Classifier
from edge.training.backbones import build_network

NETWORKS = {
    "resnet50": "timm:resnet50",
    "mobilenetv3": "timm:mobilenetv3_large_100",
    "efficientnet-lite0": "timm:tf_efficientnet_lite0",
}
"""Backbones by name."""
SIZE, CLASSES, CALIBRATION_FRAMES = 224, 10, 8
INPUT = InputSpec("image", "rgb", 3, SIZE, SIZE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def measure_random(name: str, frames: int, turns: int) -> list[Row]:
    """Time a network of `NETWORKS` on noise."""
    noise = noise_frames(max(frames, CALIBRATION_FRAMES))
    graph = export_onnx(build_network(NETWORKS[name], INPUT.channels, CLASSES).eval(), INPUT)
    calibration = preprocess_batch(noise[:CALIBRATION_FRAMES], INPUT)
    graphs = {FP32_WHOLE_OV: graph, INT8_WHOLE_OV: quantise_int8(graph, calibration)}
    with TemporaryDirectory() as folder:
        classifiers = {variant: whole_classifier(variant, graphs[variant], Path(folder)) for variant in graphs}
    times = time_streams(classifiers, noise[:frames], turns)
    return [Row(name, *variant, times[variant], None, (1.0,)) for variant in graphs]


def whole_classifier(variant: Variant, graph: MultiExitGraph, folder: Path) -> Classifier:
    """Return a network without its early exits as a classifier; the folder may be removed afterwards."""
    segment = write_segment(folder, f"{variant.precision}.onnx", whole_network(add_decisions(graph)))
    chain = ChainSpec(INPUT, tuple(map(str, range(CLASSES))), (segment,), (1.0,))
    return Classifier(chain, load_engines(folder, chain.segments, backend_named(variant.backend)), ())


def noise_frames(count: int) -> Sequence[Frame]:
    """Return images of noise."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    return [Frame(image, PixelFormat.BGR) for image in pixels]
