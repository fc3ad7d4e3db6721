"""fp32 graph to fp16, by NVIDIA ModelOpt; what comes out as logits stays fp32."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from compile.check import Evaluator
from compile.graph import Graph
from compile.quiet import quietly
from edge.errors import CheckpointError

FLOAT_OPS = ["LayerNormalization"]
"""Sums of squares over a whole map stay fp32."""


def to_fp16(model: ModelProto, samples: NDArray[np.float32]) -> ModelProto:
    """Return the model with weights and arithmetic in fp16, inputs and outputs in fp32.

    Args:
        model: The multi-exit graph in fp32.
        samples: Images as network input, shape (samples, channels, height, width), on which nothing may overflow.

    Raises:
        CheckpointError: a number is too large for fp16.
    """
    with quietly("modelopt"):
        from modelopt.onnx.autocast import convert_to_f16  # here, because it configures logging when imported

        half: ModelProto = convert_to_f16(_copied(model), keep_io_types=True, op_block_list=FLOAT_OPS)
    _check_finite(half, samples)
    return half


def _copied(model: ModelProto) -> ModelProto:
    """Return a copy, for ModelOpt changes what it is given."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _check_finite(half: ModelProto, samples: NDArray[np.float32]) -> None:
    """Compute every fp16 tensor: an infinite one inside may leave the logits finite, and wrong."""
    watched = _copied(half)
    graph = Graph(half)
    names = [
        name
        for name, value in graph.values.items()
        if name in graph.producer and value.type.tensor_type.elem_type == TensorProto.FLOAT16
    ]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    evaluate = Evaluator(watched)
    for sample in samples:
        for name, values in evaluate({"image": sample[None]}).items():
            if not np.isfinite(values).all():
                node = graph.producer[name]
                raise CheckpointError(
                    f"{name}, made by {node.name} ({node.op_type}), is too large for fp16 on a calibration image; "
                    "compile without --precision fp16, or train with a lower learning rate or more weight decay"
                )
