"""fp32 graph to int8: explicit symmetric Q/DQ nodes, placed and scaled by NVIDIA ModelOpt on the CPU.

What is not quantised stays fp32: with fp16 scales ONNX Runtime truncates where it should round, so that an fp16 rest
could not be checked against anything.
"""

import re
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from compile.graph import Graph
from compile.quiet import suppress_output
from edge.errors import CheckpointError

FLOAT_HEAD_OPS = ["Mul", "Sigmoid", "ReduceMean", "AveragePool", "Gemm"]
"""What weighs, pools and classifies in a head stays float: INT8 there distorts confidence and saves nothing."""
FLOAT_SHARE = 0.08
"""Share of the first segment's multiply-accumulates that may stay float to read the image well."""


METHODS = ("max", "entropy")
"""How activation ranges are chosen. ModelOpt takes any other name for `max`, without a word.

The first is usual: on validation images it kept more answers of a MobileNet (99.3 % against 98.8 to 99.2 %), and as
many of a CNN and a ResNet-18.
"""


def quantise_int8(
    model: ModelProto, samples: NDArray[np.float32], *, method: str = METHODS[0], left_out: Collection[str] = ()
) -> ModelProto:
    """Return the model with Q/DQ nodes, weights per channel, the rest in fp32.

    Args:
        model: The multi-exit graph in fp32.
        samples: Calibration images as network input, shape (samples, channels, height, width).
        method: One of `METHODS`.
        left_out: Nodes that stay float, beside those of `float_convolutions`.

    Raises:
        CheckpointError: the method is none of them.
    """
    if method not in METHODS:
        raise CheckpointError(f"there is no calibration method {method!r}; choose {' or '.join(METHODS)}")
    excluded = [*left_out, *float_convolutions(model)]
    with tempfile.TemporaryDirectory() as folder, suppress_output("modelopt"):
        from modelopt.onnx.quantization import quantize  # here, because it configures logging when imported

        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize(
            str(source),
            quantize_mode="int8",
            calibration_data={"image": samples},
            calibration_method=method,
            calibration_eps=["cpu"],
            op_types_to_exclude=FLOAT_HEAD_OPS,
            nodes_to_exclude=[f"^{re.escape(name)}$" for name in excluded],
            high_precision_dtype="fp32",
            output_path=str(target),
            log_level="ERROR",
        )
        return onnx.load(target)


def float_convolutions(model: ModelProto) -> dict[str, str]:
    """Return the convolutions that are not quantised by name, and why.

    Those that make the attention maps, which are 1x1 and steer the pooling. And the one that reads the image, where
    it is a small part of its segment: a normalised image fills the symmetric int8 range badly, and on Fashion-MNIST
    quantising it alone changed as many answers as all other convolutions together.
    """
    graph = Graph(model)
    maps = [o.name for o in model.graph.output if o.name.startswith("attention_")]
    reasons = {_convolution_before(graph, name): f"makes {name}, which steers the pooling" for name in maps}
    entering = [node for node in graph.consumers["image"] if node.op_type == "Conv"]
    first_outputs = [o.name for o in model.graph.output if o.name == "logits_0" or o.name.startswith("cut_0")]
    first = sum(graph.macs(node) for node in graph.ancestors(first_outputs))
    share = sum(graph.macs(node) for node in entering) / first
    if share <= FLOAT_SHARE:
        reasons |= {node.name: f"reads the image, {share:.1%} of its segment" for node in entering}
    return reasons


def _convolution_before(graph: Graph, tensor: str) -> str:
    """Return the name of the convolution that a tensor comes from by nodes of one input."""
    node = graph.producer[tensor]
    while node.op_type != "Conv":
        node = graph.producer[node.input[0]]
    return str(node.name)
