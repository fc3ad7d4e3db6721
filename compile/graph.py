"""ONNX graphs: the multi-exit network as one graph, and any model indexed by its tensors."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from edge.bundle import tensors
from edge.bundle.manifest import TensorSpec

QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
CONVOLUTIONS = ("Conv", "ConvTranspose")

DTYPES: dict[int, Literal["float32", "float16", "int8", "int32", "bool"]] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.BOOL: "bool",
}
"""NumPy names of the element types that a segment's inputs and outputs may have."""


@dataclass(frozen=True, slots=True)
class MultiExitGraph:
    """A multi-exit network as one ONNX model, with tensors named by `edge.bundle.tensors`."""

    model: ModelProto
    cuts: tuple[tuple[str, ...], ...]
    """For each exit but the last, the names of the outputs that the next segment reads."""

    @property
    def exits(self) -> int:
        """Number of exits."""
        return len(self.cuts) + 1

    def exit_outputs(self, exit_index: int) -> tuple[str, ...]:
        """Return the names of an exit's outputs, in the order of the model: logits, attention map, decision."""
        is_last = exit_index == self.exits - 1
        names = {*tensors.exit_outputs(exit_index, is_last=is_last), tensors.attention(exit_index)}
        return tuple(output.name for output in self.model.graph.output if output.name in names)

    def later_outputs(self, exit_index: int) -> list[str]:
        """Return the names of the outputs of all later exits."""
        return [name for k in range(exit_index + 1, self.exits) for name in self.exit_outputs(k)]

    def copy(self) -> "MultiExitGraph":
        """Return the graph with its own copy of the model, which may be changed."""
        model = ModelProto()
        model.CopyFrom(self.model)
        return dataclasses.replace(self, model=model)


class IndexedGraph:
    """A model with inferred tensor shapes, whose nodes are indexed by the tensors they produce and consume."""

    def __init__(self, model: ModelProto) -> None:
        """Infer tensor shapes and index the nodes."""
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
        return TensorSpec(name, DTYPES[self.values[name].type.tensor_type.elem_type], self.shape(name))

    def ancestors(
        self, outputs: Iterable[str], stop: Iterable[str] = (), *, through_shapes: bool = True
    ) -> list[NodeProto]:
        """Return the nodes that compute tensors from others, in the order of the graph.

        Args:
            outputs: Names of the computed tensors.
            stop: Names of the tensors that they are computed from; empty for the model's inputs.
            through_shapes: Also return the nodes of which only an output's shape is read.
        """
        needed: set[int] = set()
        pending, seen = list(outputs), set(stop)
        while pending:
            name = pending.pop()
            if name in seen or name not in self.producer:
                continue
            seen.add(name)
            node = self.producer[name]
            needed.add(id(node))
            if through_shapes or node.op_type != "Shape":
                pending.extend(node.input)
        return [node for node in self.nodes if id(node) in needed]

    def macs(self, node: NodeProto) -> int:
        """Return the multiply-accumulates of a convolution or matrix product for one image, 0 for other nodes."""
        if node.op_type not in (*CONVOLUTIONS, "Gemm", "MatMul"):
            return 0
        output = [size or 1 for size in self.shape(node.output[0])]
        weight = [size or 1 for size in self.shape(node.input[1])]
        if node.op_type == "Conv":
            return math.prod(output) * math.prod(weight[1:])
        if node.op_type == "ConvTranspose":  # its weight begins with the input channels
            return math.prod(size or 1 for size in self.shape(node.input[0])) * math.prod(weight[1:])
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return math.prod(output) * (weight[-1] if transposed else weight[-2])

    def is_int8(self, node: NodeProto) -> bool:
        """Check that a node reads both its data and its weight through DequantizeLinear."""
        producers = [self.producer.get(name) for name in node.input[:2]]
        return all(producer is not None and producer.op_type == "DequantizeLinear" for producer in producers)

    def shape(self, name: str) -> tuple[int | None, ...]:
        """Return a tensor's sizes, None for a symbolic one."""
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        shape = self.values[name].type.tensor_type.shape
        return tuple(size.dim_value if size.HasField("dim_value") else None for size in shape.dim)


def with_inferred_shapes(model: ModelProto, original: ModelProto) -> ModelProto:
    """Return a converted model with inferred shapes instead of the converter's.

    ModelOpt gives the same name to different symbolic sizes, and ONNX Runtime takes sizes of the same name for equal.

    Args:
        model: A model with the inputs and outputs of the original.
        original: The model before its conversion.
    """
    del model.graph.value_info[:]
    shapes = {value.name: value.type.tensor_type.shape for value in (*original.graph.input, *original.graph.output)}
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.CopyFrom(shapes[value.name])
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def parameter_count(model: ModelProto) -> int:
    """Return the number of weights.

    Scales and zero points of Q/DQ nodes are not counted, nor is a normalisation's weight if all its values are 1.
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
    indexed = IndexedGraph(model)
    convolutions = [node for node in indexed.nodes if node.op_type in CONVOLUTIONS]
    total = sum(indexed.macs(node) for node in convolutions)
    return sum(indexed.macs(node) for node in convolutions if indexed.is_int8(node)) / total if total else 0.0


def total_macs(model: ModelProto) -> int:
    """Return the multiply-accumulates for one image."""
    indexed = IndexedGraph(model)
    return sum(indexed.macs(node) for node in indexed.nodes)
