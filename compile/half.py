"""fp32 graph to fp16, by NVIDIA ModelOpt; what comes out as logits stays fp32."""

import re
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from compile.check import Evaluator
from compile.graph import Graph
from compile.quiet import suppress_output
from edge.errors import CheckpointError

FLOAT_OPS = ("LayerNormalization",)
"""Sums of squares over a whole map stay fp32."""
LARGEST = float(np.finfo(np.float16).max)


def to_fp16(model: ModelProto, samples: NDArray[np.float32], only: Collection[str] | None = None) -> ModelProto:
    """Return the model with weights and arithmetic in fp16, inputs and outputs in fp32.

    Args:
        model: The multi-exit graph in fp32.
        samples: Images as network input, shape (samples, channels, height, width), on which nothing may overflow.
        only: Names of the nodes to change; None for all.

    Raises:
        CheckpointError: a number is too large for fp16.
    """
    kept = {node.name for node in model.graph.node if only is not None and node.name not in only}
    kept |= set(float_layers(model))
    _check_weights(model, kept)
    with tempfile.TemporaryDirectory() as folder, suppress_output("modelopt"):
        from modelopt.onnx.autocast import convert_to_mixed_precision  # here: it configures logging when imported

        source = Path(folder) / "fp32.onnx"
        onnx.save(model, source)
        half: ModelProto = convert_to_mixed_precision(
            str(source),
            keep_io_types=True,
            nodes_to_exclude=[f"^{re.escape(name)}$" for name in kept],
            data_max=np.inf,
            init_max=np.inf,
        )
    _check_finite(half, samples)
    return half


def float_layers(model: ModelProto) -> list[str]:
    """Return the names of the nodes that are never in fp16."""
    return [node.name for node in model.graph.node if node.op_type in FLOAT_OPS]


def _check_weights(model: ModelProto, kept: Collection[str]) -> None:
    """Look at the weights themselves: ModelOpt makes those that are too large smaller, without a word."""
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    too_large = {tensor.name for tensor in floats if np.abs(numpy_helper.to_array(tensor)).max(initial=0) > LARGEST}
    for node in model.graph.node:
        for name in node.input:
            # What lies beyond a limit that fp16 cannot hold, it cannot hold either.
            if name in too_large and node.name not in kept and node.op_type != "Clip":
                raise CheckpointError(
                    f"the weight {name} of {node.name} ({node.op_type}) is too large for fp16; "
                    "compile without --precision fp16, or train with a lower learning rate or more weight decay"
                )


def _check_finite(half: ModelProto, samples: NDArray[np.float32]) -> None:
    """Compute every fp16 tensor: an infinite one inside may leave the logits finite, and wrong."""
    watched, graph = ModelProto(), Graph(half)
    watched.CopyFrom(half)
    made = [name for node in graph.nodes for name in node.output]  # in order: the first that overflows is the cause
    names = [name for name in made if graph.values[name].type.tensor_type.elem_type == TensorProto.FLOAT16]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    evaluate = Evaluator(watched)
    for sample in samples:
        tensors = evaluate({"image": sample[None]})
        for name in names:
            if not np.isfinite(tensors[name]).all():
                node = graph.producer[name]
                raise CheckpointError(
                    f"{name}, made by {node.name} ({node.op_type}), is too large for fp16 on a calibration image; "
                    "compile without --precision fp16, or train with a lower learning rate or more weight decay"
                )
