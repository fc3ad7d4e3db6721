"""fp32 graph to int8: explicit symmetric Q/DQ nodes, placed and scaled by NVIDIA ModelOpt on the CPU.

Nodes that are not quantised stay fp32: with fp16 scales ONNX Runtime truncates instead of rounding, so a graph of int8
and fp16 cannot be verified on a CPU.
"""

import dataclasses
import re
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from compile.bias_correction import correct_biases
from compile.graph import IndexedGraph, MultiExitGraph, with_inferred_shapes
from compile.quiet import suppress_output
from edge.bundle import tensors
from edge.errors import CheckpointError

FLOAT_HEAD_OPS = ["Mul", "Sigmoid", "ReduceMean", "AveragePool", "Gemm"]
"""Operators of the heads, which stay fp32: in int8 they would distort confidence and save nothing."""
MAX_FP32_SHARE = 0.08
"""Largest share of the first segment's multiply-accumulates with which the input convolutions stay fp32."""

METHODS = ("max", "entropy")
"""ModelOpt's calibration methods for activation ranges. It treats any other name as `max`, without an error.

The first is the default: on validation images, before biases were corrected, it kept more predictions of a MobileNet
(99.3 % against 98.8 to 99.2 %), and as many of a CNN and a ResNet-18.
"""


def quantise_int8(
    graph: MultiExitGraph, samples: NDArray[np.float32], *, method: str = METHODS[0], exclude: Collection[str] = ()
) -> MultiExitGraph:
    """Return the graph with Q/DQ nodes, weights quantised per channel, corrected biases, and all other nodes in fp32.

    Args:
        graph: The multi-exit graph in fp32.
        samples: Calibration images as network input, shape (samples, channels, height, width).
        method: One of `METHODS`.
        exclude: Names of nodes that stay fp32, in addition to `fp32_convolutions`.

    Raises:
        CheckpointError: the method is unknown.
    """
    if method not in METHODS:
        raise CheckpointError(f"there is no calibration method {method!r}; choose {' or '.join(METHODS)}")
    excluded = [*exclude, *fp32_convolutions(graph)]
    with tempfile.TemporaryDirectory() as folder, suppress_output("modelopt"):
        from modelopt.onnx.quantization import quantize  # here, because it configures logging when imported

        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(graph.model, source)
        quantize(
            str(source),
            quantize_mode="int8",
            calibration_data={tensors.IMAGE: samples},
            calibration_method=method,
            calibration_eps=["cpu"],
            op_types_to_exclude=FLOAT_HEAD_OPS,
            nodes_to_exclude=[f"^{re.escape(name)}$" for name in excluded],
            high_precision_dtype="fp32",
            output_path=str(target),
            log_level="ERROR",
        )
        model = with_inferred_shapes(onnx.load(target), graph.model)
    return correct_biases(graph, dataclasses.replace(graph, model=model), samples)


def fp32_convolutions(graph: MultiExitGraph) -> dict[str, str]:
    """Return the reason for each convolution that is not quantised, by name of the node.

    These are the 1x1 convolutions that compute the attention maps, since the pooling depends on them, and the input
    convolution, if it is a small part of its segment: a normalised image uses the symmetric int8 range badly, and on
    Fashion-MNIST quantising it alone changed as many predictions as all other convolutions together.
    """
    indexed = IndexedGraph(graph.model)
    maps = [tensors.attention(k) for k in range(graph.exits)]
    attention = "it computes an attention map, on which the pooling depends"
    reasons = {_convolution_before(indexed, name): attention for name in maps if name in indexed.producer}
    readers = [node for node in indexed.consumers[tensors.IMAGE] if node.op_type == "Conv"]
    segment = indexed.ancestors([tensors.logits(0), *(graph.cuts[0] if graph.cuts else ())])
    share = sum(map(indexed.macs, readers)) / sum(map(indexed.macs, segment))
    if share <= MAX_FP32_SHARE:
        reasons |= {node.name: f"it reads the image, with {share:.1%} of its segment's MACs" for node in readers}
    return reasons


def _convolution_before(indexed: IndexedGraph, tensor: str) -> str:
    """Return the name of the last convolution before a tensor."""
    node = indexed.producer[tensor]
    while node.op_type != "Conv":
        node = indexed.producer[node.input[0]]
    return str(node.name)
