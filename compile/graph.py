"""Walking and measuring ONNX graphs."""

import math
from collections.abc import Iterable
from typing import Literal

import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from edge.bundle.manifest import TensorSpec

QUANTISERS = ("QuantizeLinear", "DequantizeLinear")

ELEMENT: dict[int, Literal["float32", "float16", "int8", "int32", "bool"]] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.BOOL: "bool",
}
"""Element types a segment may take in or give out, by ONNX's number."""


class Graph:
    """A model's nodes, looked up by the tensors they make and take."""

    def __init__(self, model: ModelProto) -> None:
        """Index the model's nodes; tensor shapes are inferred."""
        self.model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        self.nodes = list(self.model.graph.node)
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.initializers = {tensor.name: tensor for tensor in self.model.graph.initializer}
        graph = self.model.graph
        self.values = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}

    def spec(self, name: str) -> TensorSpec:
        """Return a tensor's element type and shape; a symbolic size is the batch."""
        tensor = self.values[name].type.tensor_type
        shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim)
        return TensorSpec(name, ELEMENT[tensor.elem_type], shape)

    def ancestors(self, outputs: Iterable[str], stop: Iterable[str] = ()) -> list[NodeProto]:
        """Return the nodes that compute `outputs`, in the graph's order, going no further than the tensors `stop`."""
        wanted: set[int] = set()
        pending, seen = list(outputs), set(stop)
        while pending:
            name = pending.pop()
            if name in seen or name not in self.producer:
                continue
            seen.add(name)
            node = self.producer[name]
            wanted.add(id(node))
            pending.extend(node.input)
        return [node for node in self.nodes if id(node) in wanted]

    def macs(self, node: NodeProto) -> int:
        """Return the multiply-accumulates of a convolution or matrix product for one image, 0 for other nodes."""
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            return 0
        output = [1 if size is None else size for size in self._shape(node.output[0])]
        weight = [size or 1 for size in self._shape(node.input[1])]
        if node.op_type == "Conv":
            return math.prod(output) * math.prod(weight[1:])
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return math.prod(output) * (weight[-1] if transposed else weight[-2])

    def is_int8(self, node: NodeProto) -> bool:
        """Return whether a node reads its data and its weight through DequantizeLinear."""
        makers = [self.producer.get(name) for name in node.input[:2]]
        return all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)

    def _shape(self, name: str) -> tuple[int | None, ...]:
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        shape = self.values[name].type.tensor_type.shape
        return tuple(size.dim_value if size.HasField("dim_value") else None for size in shape.dim)


def exit_count(model: ModelProto) -> int:
    """Return the number of exits of a multi-exit graph."""
    return sum(output.name.startswith("logits_") for output in model.graph.output)


def parameter_count(model: ModelProto) -> int:
    """Return the number of weights.

    Quantisers' scales and zero points are left out, and the ones a normalisation without weights multiplies by.
    """
    scales = {name for node in model.graph.node if node.op_type in QUANTISERS for name in node.input[1:]}
    return sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.name not in scales
        and tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        and not (numpy_helper.to_array(tensor) == 1).all()
    )


def int8_macs_share(model: ModelProto) -> float:
    """Return the share of the convolutions' multiply-accumulates whose inputs and weights are quantised."""
    graph = Graph(model)
    convolutions = [node for node in graph.nodes if node.op_type == "Conv"]
    total = sum(graph.macs(node) for node in convolutions)
    return sum(graph.macs(node) for node in convolutions if graph.is_int8(node)) / total if total else 0.0


def total_macs(model: ModelProto) -> int:
    """Return the multiply-accumulates of one image."""
    graph = Graph(model)
    return sum(graph.macs(node) for node in graph.nodes)
