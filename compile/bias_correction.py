"""Bias correction: quantisation does not shift the mean of the logits.

A rounded weight is wrong by up to half a step. Where inputs are positive on average, as after ReLU, these errors add up
to a constant, and the constants of many layers shift the logits. Each bias is lowered by its convolution's constant,
as measured on calibration images (Nagel et al. 2019, Data-Free Quantization, section 4.2). Rounded activations shift
the logits by a little more, by which the last biases are lowered.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from compile.evaluate import Evaluator, compute_logits
from compile.graph import IndexedGraph, MultiExitGraph
from edge.bundle import tensors

MAX_SAMPLES, BATCH_SIZE = 256, 16


def correct_biases(graph: MultiExitGraph, int8: MultiExitGraph, samples: NDArray[np.float32]) -> MultiExitGraph:
    """Return the int8 graph with corrected biases: of its int8 convolutions, then of the layers that output logits.

    Args:
        graph: The multi-exit graph in fp32.
        int8: The same graph quantised.
        samples: Network input, shape (samples, channels, height, width); shifts are measured on the first 256.
    """
    samples = samples[:MAX_SAMPLES]
    indexed = IndexedGraph(int8.model)
    quantised = [node for node in indexed.nodes if node.op_type == "Conv" and indexed.is_int8(node)]
    errors = {node.name: _rounding_error(indexed, node) for node in quantised}
    corrected = _lower_biases(int8, _mean_shifts(graph, errors, samples))
    shifts = (compute_logits(corrected, samples) - compute_logits(graph, samples)).mean(axis=1, dtype=np.float64)
    producers = [indexed.producer[tensors.logits(k)] for k in range(graph.exits)]
    return _lower_biases(
        corrected, {node.name: shift for node, shift in zip(producers, shifts, strict=True) if node.op_type == "Gemm"}
    )


def _lower_biases(graph: MultiExitGraph, shifts: Mapping[str, NDArray[np.float64]]) -> MultiExitGraph:
    """Return the graph with these shifts, shape (channels,), subtracted from the biases of nodes, by name."""
    lowered = graph.copy()
    proto = lowered.model.graph
    initializers = {tensor.name: tensor for tensor in proto.initializer}
    for node in proto.node:
        if node.name in shifts:
            bias = numpy_helper.to_array(initializers[node.input[2]]) if len(node.input) > 2 else 0.0
            name = f"{node.name}_corrected_bias"  # a new tensor: nodes may share a bias
            proto.initializer.append(numpy_helper.from_array((bias - shifts[node.name]).astype(np.float32), name))
            node.input[2:] = [name]
    read = {name for node in proto.node for name in node.input}
    kept = [tensor for tensor in proto.initializer if tensor.name in read]
    del proto.initializer[:]
    proto.initializer.extend(kept)
    return lowered


def round_weight(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round a weight to int8 with one scale per output channel, and dequantise it."""
    step = scale.reshape(-1, *[1] * (weight.ndim - 1))
    rounded: NDArray[np.float32] = (np.clip(np.round(weight / step), -128, 127) * step).astype(np.float32)
    return rounded


def _rounding_error(indexed: IndexedGraph, node: NodeProto) -> NDArray[np.float32]:
    """Return the difference of a convolution's rounded weight from its weight."""
    dequantise = indexed.producer[node.input[1]]
    quantise = indexed.producer[dequantise.input[0]]
    weight, scale = (numpy_helper.to_array(indexed.initializers[name]) for name in quantise.input[:2])
    error: NDArray[np.float32] = round_weight(weight, scale) - weight
    return error


def _mean_shifts(
    graph: MultiExitGraph, errors: Mapping[str, NDArray[np.float32]], samples: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Return the mean output that each convolution would have with these weights, shape (channels,), by name."""
    if not errors:  # such as a transformer's: ONNX Runtime refuses a graph without outputs
        return {}
    watched = graph.copy()
    proto = watched.model.graph
    del proto.output[:]
    axes = numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "shift_axes")
    proto.initializer.append(axes)
    for node in [node for node in proto.node if node.name in errors]:
        name = f"shift_of_{node.name}"
        convolution = NodeProto()
        convolution.CopyFrom(node)
        convolution.name, convolution.output[:] = name, [f"{name}_map"]
        convolution.input[:] = [node.input[0], f"{name}_weight"]
        proto.initializer.append(numpy_helper.from_array(errors[node.name], f"{name}_weight"))
        mean = helper.make_node("ReduceMean", [f"{name}_map", axes.name], [name], f"{name}_mean", keepdims=0)
        proto.node.extend([convolution, mean])
        proto.output.append(helper.make_empty_tensor_value_info(name))
    evaluate = Evaluator(watched.model)
    sums = {name: np.zeros(len(error), dtype=np.float64) for name, error in errors.items()}
    for start in range(0, len(samples), BATCH_SIZE):
        means = evaluate({tensors.IMAGE: samples[start : start + BATCH_SIZE]})
        for name in sums:
            sums[name] += means[f"shift_of_{name}"].sum(axis=0, dtype=np.float64)
    return {name: total / len(samples) for name, total in sums.items()}
