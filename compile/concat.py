"""Quantised concatenations: the inputs of a Concat are quantised, not its result."""

from collections.abc import Collection, Mapping
from itertools import chain

from onnx import ModelProto, NodeProto, helper


def quantise_before_concat(model: ModelProto) -> None:
    """Make each Concat before a QuantizeLinear join int8 tensors, in place, also with a ReLU between the two.

    All inputs have the scale of the result, so that the values stay the same. OpenVINO 2026.4 computes wrong values
    where the result of a Concat is quantised: it drops the scale, and rounds activations to whole numbers.
    """
    single = {tensor.name for tensor in model.graph.initializer if tensor.dims in ([], [1])}
    quantisers = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[1] in single]
    quantised = {node.input[0] for node in quantisers}
    _distribute(model, {node.output[0] for node in model.graph.node if node.op_type == "Relu"} & quantised)
    _distribute(model, {node.output[0] for node in quantisers})
    _remove_unread(model)


def _distribute(model: ModelProto, outputs: Collection[str]) -> None:
    """Compute these outputs of elementwise nodes before a Concat instead of after it, where there is one."""
    producer = {name: node for node in model.graph.node for name in node.output}
    nodes = [_before_concat(node, producer) if node.output[0] in outputs else [node] for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(chain.from_iterable(nodes))


def _before_concat(node: NodeProto, producer: Mapping[str, NodeProto]) -> list[NodeProto]:
    """Return the nodes to compute instead of an elementwise node: one for each input of the Concat that it reads."""
    concat = producer.get(node.input[0])
    if concat is None or concat.op_type != "Concat":
        return [node]
    names = [f"{node.output[0]}_part_{k}" for k in range(len(concat.input))]
    parts = [
        helper.make_node(node.op_type, [source, *node.input[1:]], [name], name)
        for source, name in zip(concat.input, names, strict=True)
    ]
    joined = helper.make_node("Concat", names, node.output, f"{node.name}_concat", axis=concat.attribute[0].i)
    return [*chain.from_iterable(_before_concat(part, producer) for part in parts), joined]


def _remove_unread(model: ModelProto) -> None:
    read = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read.update(node.input)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
