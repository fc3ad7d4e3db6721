"""The effect of int8 on each convolution, quantised alone in an fp32 network."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from compile.bias_correction import round_weight
from compile.evaluate import compute_logits
from compile.graph import IndexedGraph, MultiExitGraph
from edge.console import track


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """The effect of quantising one convolution."""

    layer: str
    """Name of its weight."""
    node: str
    macs_share: float
    """Share of the network's multiply-accumulates."""
    changed_predictions: tuple[float, ...]
    """Share of the images whose prediction changes, for each exit."""
    logit_change: float
    """Mean absolute change over images, classes and exits."""


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
        logits -= (logits - expected).mean(axis=1, keepdims=True)  # as `correct_biases` does
        changed = (logits.argmax(axis=-1) != expected.argmax(axis=-1)).mean(axis=1)
        node = original[layer.name]
        measured.append(
            LayerSensitivity(
                layer=node.input[1].removeprefix("network."),
                node=node.name,
                macs_share=indexed.macs(node) / total,
                changed_predictions=tuple(changed.tolist()),
                logit_change=float(np.abs(logits - expected).mean()),
            )
        )
    return sorted(measured, key=lambda layer: -layer.logit_change)


def _quantise_only(graph: MultiExitGraph, quantised: IndexedGraph, layer: NodeProto) -> MultiExitGraph:
    """Return the fp32 graph with one convolution's input, weight and bias as in the int8 graph."""
    rounded = graph.copy()
    proto = rounded.model.graph
    index, node = next((i, n) for i, n in enumerate(proto.node) if n.name == layer.name)
    scale = quantised.initializers[quantised.producer[layer.input[0]].input[1]]
    weight_scale = numpy_helper.to_array(quantised.initializers[quantised.producer[layer.input[1]].input[1]])
    weight = next(tensor for tensor in proto.initializer if tensor.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(round_weight(numpy_helper.to_array(weight), weight_scale), weight.name))
    bias = quantised.initializers[layer.input[2]]
    node.input[2:] = [bias.name]
    zero = numpy_helper.from_array(np.array(0, dtype=np.int8), "sensitivity_zero")
    step = numpy_helper.from_array(numpy_helper.to_array(scale).reshape(()).copy(), "sensitivity_scale")
    proto.initializer.extend([zero, step, bias])
    source, node.input[0] = node.input[0], "sensitivity_output"
    names = [step.name, zero.name]
    proto.node.insert(index, helper.make_node("DequantizeLinear", ["sensitivity_int8", *names], [node.input[0]]))
    proto.node.insert(index, helper.make_node("QuantizeLinear", [source, *names], ["sensitivity_int8"]))
    return rounded
