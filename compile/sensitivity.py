"""`python -m compile.sensitivity`: where int8 hurts. Each convolution quantised alone, everything else in fp32."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from compile.auto import logits
from compile.export import export_onnx
from compile.graph import Graph
from compile.precisions import convert
from compile.quantise import METHODS
from compile.trained_model import load_trained_model
from edge.console import PASSED, print_json, print_table, run_main, track
from edge.training.checkpoint import read_checkpoint

IMAGES = 500


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """What quantising one convolution does."""

    layer: str
    """Name of its weight."""
    macs_share: float
    """Of the network's multiply-accumulates."""
    changed_answers: tuple[float, ...]
    """Share of the images, at each exit."""
    logit_change: float
    """Mean absolute change over images, classes and exits."""


def sensitivity(whole: ModelProto, int8: ModelProto, images: NDArray[np.float32]) -> list[LayerSensitivity]:
    """Return what each quantised convolution does on its own, worst first.

    Args:
        whole: The multi-exit graph in fp32.
        int8: The same quantised; its scales are used.
        images: Network input, shape (samples, channels, height, width).
    """
    graph, quantised = Graph(whole), Graph(int8)
    expected = logits(whole, images)
    total = sum(graph.macs(node) for node in graph.nodes)
    layers = [node for node in quantised.nodes if node.op_type == "Conv" and quantised.is_int8(node)]
    found = []
    for layer in track(layers, "measuring where int8 hurts"):
        changed = logits(_only(whole, quantised, layer), images)
        answers = (changed.argmax(axis=-1) != expected.argmax(axis=-1)).mean(axis=1)
        [own] = [node for node in graph.nodes if node.name == layer.name]
        share, change = graph.macs(own) / total, float(np.abs(changed - expected).mean())
        found.append(LayerSensitivity(own.input[1].removeprefix("network."), share, tuple(answers.tolist()), change))
    return sorted(found, key=lambda harm: -harm.logit_change)


def _only(whole: ModelProto, quantised: Graph, layer: NodeProto) -> ModelProto:
    """Return the fp32 graph with one convolution's input and weight rounded as the int8 graph rounds them."""
    model = ModelProto()
    model.CopyFrom(whole)
    index, node = next((i, n) for i, n in enumerate(model.graph.node) if n.name == layer.name)
    scale = quantised.initializers[quantised.producer[layer.input[0]].input[1]]
    weight_scale = numpy_helper.to_array(quantised.initializers[quantised.producer[layer.input[1]].input[1]])
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(_rounded(numpy_helper.to_array(weight), weight_scale), weight.name))
    zero = numpy_helper.from_array(np.array(0, dtype=np.int8), "sensitivity_zero")
    step = numpy_helper.from_array(numpy_helper.to_array(scale).reshape(()).copy(), "sensitivity_scale")
    model.graph.initializer.extend([zero, step])
    source, node.input[0] = node.input[0], "sensitivity_output"
    names = [step.name, zero.name]
    model.graph.node.insert(index, helper.make_node("DequantizeLinear", ["sensitivity_int8", *names], [node.input[0]]))
    model.graph.node.insert(index, helper.make_node("QuantizeLinear", [source, *names], ["sensitivity_int8"]))
    return model


def _rounded(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a weight as int8 holds it, one scale an output channel."""
    step = scale.reshape(-1, *[1] * (weight.ndim - 1))
    rounded: NDArray[np.float32] = (np.clip(np.round(weight / step), -128, 127) * step).astype(np.float32)
    return rounded


def main() -> int:
    """Measure as the command line says."""
    new = argparse.ArgumentParser(prog="python -m compile.sensitivity", description="Where int8 hurts, layer by layer.")
    new.add_argument("checkpoint", type=Path, help="checkpoint.pt of `python -m edge.training`")
    new.add_argument(
        "--ranges", choices=METHODS, default=METHODS[0], help="how ranges are chosen (default: %(default)s)"
    )
    new.add_argument("--data", type=Path, metavar="DIR", help="where the dataset's files are, if they moved")
    new.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = new.parse_args()
    checkpoint = read_checkpoint(arguments.checkpoint)
    trained = load_trained_model(checkpoint, arguments.data)
    whole = export_onnx(checkpoint.network(), checkpoint.input)
    int8 = convert("int8", whole, trained, arguments.ranges)
    harms = sensitivity(whole, int8.model, trained.inputs(trained.some("validation", IMAGES)))
    if arguments.json:
        print_json([dataclasses.asdict(harm) for harm in harms])
        return PASSED
    rows = [
        (
            h.layer,
            f"{h.macs_share:.1%}",
            " / ".join(f"{share:.2%}" for share in h.changed_answers),
            f"{h.logit_change:.3g}",
        )
        for h in harms
    ]
    columns = ("convolution", "MACs", "answers changed at exits", "mean logit change")
    print_table("int8 in one convolution at a time, validation images", columns, rows)
    for note in int8.notes:
        print(note)
    return PASSED


if __name__ == "__main__":
    run_main(main)
