"""fp32 graph to fp16, by NVIDIA ModelOpt; the logits stay fp32."""

import dataclasses
import re
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from compile.evaluate import Evaluator
from compile.graph import IndexedGraph, MultiExitGraph, with_inferred_shapes
from compile.quiet import suppress_output
from edge.bundle import tensors
from edge.errors import CheckpointError

FLOAT_OPS = ("LayerNormalization",)
"""Operators that stay fp32, because their sum of squares over a feature map can overflow fp16."""
MAX_FP16 = float(np.finfo(np.float16).max)
REMEDY = "compile without --precision fp16, or train with a lower learning rate or more weight decay"


def to_fp16(
    graph: MultiExitGraph, samples: Iterable[NDArray[np.float32]], only: Collection[str] | None = None
) -> MultiExitGraph:
    """Return the graph with weights and arithmetic in fp16, and inputs and outputs in fp32.

    Args:
        graph: The multi-exit graph in fp32, or with nodes in int8.
        samples: Network inputs on which no tensor may overflow, each of shape (channels, height, width).
        only: Names of the nodes to convert; None for all.

    Raises:
        CheckpointError: a weight or a tensor is too large for fp16.
    """
    exclude = {node.name for node in graph.model.graph.node if only is not None and node.name not in only}
    exclude |= set(fp32_nodes(graph.model))
    _check_weights(graph.model, exclude)
    with tempfile.TemporaryDirectory() as folder, suppress_output("modelopt"):
        from modelopt.onnx.autocast import convert_to_mixed_precision  # here: it configures logging when imported

        source = Path(folder) / "fp32.onnx"
        onnx.save(graph.model, source)
        model: ModelProto = convert_to_mixed_precision(
            str(source),
            keep_io_types=True,
            nodes_to_exclude=[f"^{re.escape(name)}$" for name in exclude],
            data_max=np.inf,
            init_max=np.inf,
        )
    model = with_inferred_shapes(model, graph.model)
    _check_finite(model, samples)
    return dataclasses.replace(graph, model=model)


def fp32_nodes(model: ModelProto) -> list[str]:
    """Return the names of the nodes that always stay fp32."""
    return [node.name for node in model.graph.node if node.op_type in FLOAT_OPS]


def _check_weights(model: ModelProto, exclude: Collection[str]) -> None:
    """Check the weights before ModelOpt does: it clips weights that are too large, without an error."""
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    too_large = {tensor.name for tensor in floats if np.abs(numpy_helper.to_array(tensor)).max(initial=0) > MAX_FP16}
    for node in model.graph.node:
        for name in node.input:
            # A Clip limit that is too large for fp16 never applies in fp16: no value is beyond it.
            if name in too_large and node.name not in exclude and node.op_type != "Clip":
                raise CheckpointError(
                    f"the weight {name} of {node.name} ({node.op_type}) is too large for fp16; {REMEDY}"
                )


def _check_finite(model: ModelProto, samples: Iterable[NDArray[np.float32]]) -> None:
    """Compute every fp16 tensor: an infinite value inside the network may leave the logits finite but wrong."""
    watched, indexed = ModelProto(), IndexedGraph(model)
    watched.CopyFrom(model)
    produced = [name for node in indexed.nodes for name in node.output]  # in order: the first to overflow is the cause
    names = [name for name in produced if indexed.values[name].type.tensor_type.elem_type == TensorProto.FLOAT16]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    evaluate = Evaluator(watched)
    for sample in samples:
        values = evaluate({tensors.IMAGE: sample[None]})
        for name in names:
            if not np.isfinite(values[name]).all():
                node = indexed.producer[name]
                raise CheckpointError(
                    f"{name}, computed by {node.name} ({node.op_type}), is too large for fp16 on a calibration image; "
                    f"{REMEDY}"
                )
