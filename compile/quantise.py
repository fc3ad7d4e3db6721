"""fp32 graph to int8: explicit symmetric Q/DQ nodes, placed and scaled by NVIDIA ModelOpt on the CPU."""

import re
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from compile.graph import Graph
from compile.quiet import quietly

FLOAT_HEAD_OPS = ["Mul", "Sigmoid", "ReduceMean", "AveragePool", "Gemm"]
"""What weighs, pools and classifies in a head stays float: INT8 there distorts confidence and saves nothing."""


def quantise_int8(
    model: ModelProto, samples: NDArray[np.float32], method: Literal["entropy", "max"] = "entropy"
) -> ModelProto:
    """Return the model with Q/DQ nodes, weights per channel, the rest in fp32.

    Args:
        model: The multi-exit graph in fp32.
        samples: Calibration images as network input, shape (samples, channels, height, width).
        method: How activation ranges are chosen.
    """
    with tempfile.TemporaryDirectory() as folder, quietly("modelopt"):
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
            nodes_to_exclude=[f"^{re.escape(name)}$" for name in attention_convolutions(model)],
            high_precision_dtype="fp32",
            output_path=str(target),
            log_level="ERROR",
        )
        return onnx.load(target)


def attention_convolutions(model: ModelProto) -> list[str]:
    """Return the names of the 1x1 convolutions that make the attention maps."""
    graph = Graph(model)
    names = []
    for output in model.graph.output:
        if output.name.startswith("attention_"):
            node = graph.producer[output.name]
            while node.op_type != "Conv":
                node = graph.producer[node.input[0]]
            names.append(node.name)
    return names
