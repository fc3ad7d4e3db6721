"""The exit rule as ONNX nodes, so that every backend decides on the device."""

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compile.graph import exit_count

LAST_AXIS = "decision_last_axis"


def add_decisions(model: ModelProto) -> ModelProto:
    """Return the multi-exit graph with the decision of every exit computed inside.

    For exit k: `confidence_k` float32 (batch,) is the highest softmax probability, `label_k` int32 (batch,) the
    first class that has it, and, but at the last exit, `exit_k` bool (batch,) is `confidence_k >= threshold_k` with
    the new input `threshold_k` float32 (1,). The same rule in NumPy is `edge.decision`.
    """
    decided = ModelProto()
    decided.CopyFrom(model)
    graph = decided.graph
    graph.initializer.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), LAST_AXIS))
    exits = exit_count(model)
    for index in range(exits):
        graph.node.extend(_decision_nodes(index, is_last=index == exits - 1))
        graph.output.append(helper.make_tensor_value_info(f"confidence_{index}", TensorProto.FLOAT, ["batch"]))
        graph.output.append(helper.make_tensor_value_info(f"label_{index}", TensorProto.INT32, ["batch"]))
        if index < exits - 1:
            graph.input.append(helper.make_tensor_value_info(f"threshold_{index}", TensorProto.FLOAT, [1]))
            graph.output.append(helper.make_tensor_value_info(f"exit_{index}", TensorProto.BOOL, ["batch"]))
    return decided


def _decision_nodes(k: int, *, is_last: bool) -> list[NodeProto]:
    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"decide_{k}_{kind}", **attributes)

    nodes = [
        node("Softmax", [f"logits_{k}"], f"probability_{k}", axis=-1),
        node("ReduceMax", [f"probability_{k}", LAST_AXIS], f"confidence_{k}", keepdims=0),
        node("ArgMax", [f"logits_{k}"], f"label_{k}_int64", axis=-1, keepdims=0),
        node("Cast", [f"label_{k}_int64"], f"label_{k}", to=TensorProto.INT32),
    ]
    if not is_last:
        nodes.append(node("GreaterOrEqual", [f"confidence_{k}", f"threshold_{k}"], f"exit_{k}"))
    return nodes
