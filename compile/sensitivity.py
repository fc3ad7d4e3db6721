"""`python -m compile.sensitivity`: the effect of int8 on each convolution, quantised alone in an fp32 network."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from compile.evaluate import compute_logits
from compile.export import export_onnx
from compile.graph import IndexedGraph, MultiExitGraph
from compile.precisions import convert
from compile.quantise import METHODS
from compile.trained_model import load_trained_model
from edge.console import PASSED, print_json, print_table, run_main, track
from edge.entry import start_process
from edge.training.checkpoint import read_checkpoint

MAX_SAMPLES = 500


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """The effect of quantising one convolution."""

    layer: str
    """Name of its weight."""
    macs_share: float
    """Share of the network's multiply-accumulates."""
    changed_predictions: tuple[float, ...]
    """Share of the images whose prediction changes, for each exit."""
    logit_change: float
    """Mean absolute change over images, classes and exits."""


def main() -> int:
    """Measure a checkpoint's sensitivity to int8 and print it."""
    arguments = argument_parser().parse_args()
    checkpoint = read_checkpoint(arguments.checkpoint)
    trained = load_trained_model(checkpoint, arguments.data)
    graph = export_onnx(checkpoint.network(), checkpoint.input)
    int8 = convert("int8", graph, trained, arguments.ranges)
    images = trained.inputs(trained.sample_indices("validation", MAX_SAMPLES))
    layers = measure_sensitivity(graph, int8.graph, images)
    if arguments.json:
        print_json([dataclasses.asdict(layer) for layer in layers])
        return PASSED
    print_layers(layers)
    for note in int8.notes:
        print(note)
    return PASSED


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m compile.sensitivity",
        description="Measure how much each convolution changes the predictions if it alone runs in int8.",
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of `python -m edge.training`")
    parser.add_argument(
        "--ranges", choices=METHODS, default=METHODS[0], help="calibration method of the ranges (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the dataset's files, if they moved")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def print_layers(layers: Sequence[LayerSensitivity]) -> None:
    """Print a row per convolution."""
    rows = [
        (
            layer.layer,
            f"{layer.macs_share:.1%}",
            " / ".join(f"{share:.2%}" for share in layer.changed_predictions),
            f"{layer.logit_change:.3g}",
        )
        for layer in layers
    ]
    columns = ("convolution", "MACs", "changed predictions per exit", "mean logit change")
    print_table("effect of int8 in a single convolution, on validation images", columns, rows)


def measure_sensitivity(
    graph: MultiExitGraph, int8: MultiExitGraph, images: NDArray[np.float32]
) -> list[LayerSensitivity]:
    """Measure the effect of each quantised convolution alone; the most sensitive comes first.

    Args:
        graph: The multi-exit graph in fp32.
        int8: The same graph quantised; its scales are used.
        images: Network input, shape (samples, channels, height, width).
    """
    indexed, quantised = IndexedGraph(graph.model), IndexedGraph(int8.model)
    expected = compute_logits(graph, images)
    total = sum(indexed.macs(node) for node in indexed.nodes)
    original = {node.name: node for node in indexed.nodes}
    layers = [node for node in quantised.nodes if node.op_type == "Conv" and quantised.is_int8(node)]
    measured = []
    for layer in track(layers, "measuring the sensitivity to int8"):
        logits = compute_logits(_quantise_only(graph, quantised, layer), images)
        changed = (logits.argmax(axis=-1) != expected.argmax(axis=-1)).mean(axis=1)
        node = original[layer.name]
        measured.append(
            LayerSensitivity(
                layer=node.input[1].removeprefix("network."),
                macs_share=indexed.macs(node) / total,
                changed_predictions=tuple(changed.tolist()),
                logit_change=float(np.abs(logits - expected).mean()),
            )
        )
    return sorted(measured, key=lambda layer: -layer.logit_change)


def _quantise_only(graph: MultiExitGraph, quantised: IndexedGraph, layer: NodeProto) -> MultiExitGraph:
    """Return the fp32 graph with one convolution's input and weight rounded as the int8 graph rounds them."""
    rounded = graph.copy()
    proto = rounded.model.graph
    index, node = next((i, n) for i, n in enumerate(proto.node) if n.name == layer.name)
    scale = quantised.initializers[quantised.producer[layer.input[0]].input[1]]
    weight_scale = numpy_helper.to_array(quantised.initializers[quantised.producer[layer.input[1]].input[1]])
    weight = next(tensor for tensor in proto.initializer if tensor.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(_round(numpy_helper.to_array(weight), weight_scale), weight.name))
    zero = numpy_helper.from_array(np.array(0, dtype=np.int8), "sensitivity_zero")
    step = numpy_helper.from_array(numpy_helper.to_array(scale).reshape(()).copy(), "sensitivity_scale")
    proto.initializer.extend([zero, step])
    source, node.input[0] = node.input[0], "sensitivity_output"
    names = [step.name, zero.name]
    proto.node.insert(index, helper.make_node("DequantizeLinear", ["sensitivity_int8", *names], [node.input[0]]))
    proto.node.insert(index, helper.make_node("QuantizeLinear", [source, *names], ["sensitivity_int8"]))
    return rounded


def _round(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round a weight to int8 with one scale per output channel, and dequantise it."""
    step = scale.reshape(-1, *[1] * (weight.ndim - 1))
    rounded: NDArray[np.float32] = (np.clip(np.round(weight / step), -128, 127) * step).astype(np.float32)
    return rounded


if __name__ == "__main__":
    start_process(__name__)
    run_main(main)
