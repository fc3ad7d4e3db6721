"""The exit rule as ONNX nodes, so that every backend decides on the device."""

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compile.graph import MultiExitGraph
from edge.bundle import tensors

LAST_AXIS = "decision_last_axis"


def add_decisions(graph: MultiExitGraph) -> MultiExitGraph:
    """Return the graph with the decision of every exit as further outputs.

    Exit k gets `confidence_k`, float32 of shape (batch,), the highest softmax probability; `label_k`, int32 of shape
    (batch,), the first class that has it; and, except at the last exit, `exit_k`, bool of shape (batch,), which is
    `confidence_k >= threshold_k` for the new input `threshold_k`, float32 of shape (1,). `edge.decision` is the same
    rule in NumPy. Only where a logit is NaN, the label depends on the backend's ArgMax; engines correct it.
    """
    decided = graph.copy()
    proto = decided.model.graph
    proto.initializer.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), LAST_AXIS))
    for k in range(graph.exits):
        is_last = k == graph.exits - 1
        proto.node.extend(_decision_nodes(k, is_last=is_last))
        proto.output.append(helper.make_tensor_value_info(tensors.confidence(k), TensorProto.FLOAT, ["batch"]))
        proto.output.append(helper.make_tensor_value_info(tensors.label(k), TensorProto.INT32, ["batch"]))
        if not is_last:
            proto.input.append(helper.make_tensor_value_info(tensors.threshold(k), TensorProto.FLOAT, [1]))
            proto.output.append(helper.make_tensor_value_info(tensors.exit_flag(k), TensorProto.BOOL, ["batch"]))
    return decided


def _decision_nodes(k: int, *, is_last: bool) -> list[NodeProto]:
    logits, confidence, label = tensors.logits(k), tensors.confidence(k), tensors.label(k)
    probability, label_int64 = f"probability_{k}", f"{label}_int64"

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"decide_{k}_{kind}", **attributes)

    nodes = [
        node("Softmax", [logits], probability, axis=-1),
        node("ReduceMax", [probability, LAST_AXIS], confidence, keepdims=0),
        node("ArgMax", [logits], label_int64, axis=-1, keepdims=0),
        node("Cast", [label_int64], label, to=TensorProto.INT32),
    ]
    if not is_last:
        nodes.append(node("GreaterOrEqual", [confidence, tensors.threshold(k)], tensors.exit_flag(k)))
    return nodes
