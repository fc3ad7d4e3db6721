"""Rewrites that make a segment read its own inputs only, where its stage bypasses a cut.

A transformer's next stage reads tokens, while the cut is the feature map that the head reads: the cut is moved to the
tokens. Reshapes read the batch size of the image: they get the batch size of the segment's first input.
"""

from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter

from onnx import ModelProto, NodeProto, TensorProto, helper

from compile.graph import IndexedGraph, MultiExitGraph
from edge.bundle import tensors

LAYOUT_OPS = ("Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that select or rearrange the values of their first input."""


def move_cuts(graph: MultiExitGraph) -> MultiExitGraph:
    """Return the graph with each cut moved to the tensor that later stages read.

    A cut that rearranges this tensor, such as the feature map of a transformer's tokens, becomes part of the segment
    before it. A cut that later stages bypass for another reason is not moved, and slicing refuses it.
    """
    for k, cut in enumerate(graph.cuts):
        if len(cut) == 1:
            indexed = IndexedGraph(graph.model)
            separator = _separator(indexed, cut[0], graph.later_outputs(k))
            if separator not in (None, cut[0]):
                graph = _renamed(graph, indexed, cut[0], separator)
    return graph


def _separator(indexed: IndexedGraph, cut: str, later_outputs: Sequence[str]) -> str | None:
    """Return the tensor, at or before a cut, that separates later outputs from the image; None if none does."""
    name, outputs = cut, {output.name for output in indexed.model.graph.output}
    while name == cut or name not in outputs:
        readers = indexed.ancestors(later_outputs, stop=[name], through_shapes=False)
        if not any(tensors.IMAGE in node.input for node in readers if node.op_type != "Shape"):
            return name
        producer = indexed.producer.get(name)
        if producer is None or producer.op_type not in LAYOUT_OPS:
            break
        name = producer.input[0]
    return None


def _renamed(graph: MultiExitGraph, indexed: IndexedGraph, cut: str, separator: str) -> MultiExitGraph:
    """Give a cut's name to another tensor."""
    moved = graph.copy()
    proto = moved.model.graph
    names = {separator: cut, cut: f"{cut}_features"}
    for node in proto.node:
        for fields in (node.input, node.output):
            fields[:] = [names.get(name, name) for name in fields]
    kept = [value for value in proto.value_info if value.name not in names]
    del proto.value_info[:]
    proto.value_info.extend(kept)
    output = next(value for value in proto.output if value.name == cut)
    output.CopyFrom(indexed.values[separator])
    output.name = cut
    return moved


def localise_shapes(graph: MultiExitGraph, cuts: Sequence[Sequence[str]]) -> MultiExitGraph:
    """Return the graph in which each segment computes with shapes of its own tensors.

    A read of a shape in another segment, most often the image's batch size, becomes a read of the batch size of the
    segment's first input. Its other sizes are constants.

    Args:
        graph: The graph that will be cut.
        cuts: Tensors to pass on, for each exit but the last.
    """
    localised = graph.copy()
    for k in range(1, graph.exits):
        passed_on = [*cuts[k]] if k < len(cuts) else []
        outputs = [*graph.exit_outputs(k), *passed_on]
        _localise(localised.model, outputs, cuts[k - 1], suffix=f"_segment_{k}")
    return localised


def _localise(model: ModelProto, outputs: Sequence[str], inputs: Sequence[str], suffix: str) -> None:
    """Replace the shapes that one segment reads from others, in place."""
    indexed = IndexedGraph(model)
    members = indexed.ancestors(outputs, stop=inputs, through_shapes=False)
    if any(tensors.IMAGE in node.input and node.op_type != "Shape" for node in members):
        return  # the segment bypasses its cut for another reason, which slicing reports
    own = {name for node in members for name in node.output} | set(inputs)
    foreign = _foreign_shapes(members, own, indexed)
    if not foreign:
        return
    copies = [copy for node in foreign for copy in _copies(node, indexed, inputs[0], suffix, model)]
    renamed = {name: name + suffix for node in foreign for name in node.output}
    readers = {node.name for node in members} - {node.name for node in foreign}
    for node in (*copies, *(node for node in model.graph.node if node.name in readers)):
        node.input[:] = [renamed.get(name, name) for name in node.input]
    ordered = _in_order([*model.graph.node, *copies])
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def _foreign_shapes(members: Sequence[NodeProto], own: set[str], indexed: IndexedGraph) -> list[NodeProto]:
    """Return the nodes, in order, that compute from shapes of tensors outside the segment only."""
    foreign: list[NodeProto] = []
    outputs: set[str] = set()
    for node in members:
        computed = [name for name in node.input if name and name not in indexed.initializers]
        is_leaf = node.op_type == "Shape" and node.input[0] not in own and _is_batch_only(node, indexed)
        if is_leaf or (computed and outputs.issuperset(computed)):
            foreign.append(node)
            outputs |= set(node.output)
    return foreign


def _sizes(node: NodeProto, indexed: IndexedGraph) -> list[int | None]:
    """Return the sizes that a Shape node computes; None for symbolic sizes."""
    shape = list(indexed.shape(node.input[0]))
    limits = {attribute.name: attribute.i for attribute in node.attribute}
    return shape[limits.get("start", 0) : limits.get("end", len(shape))]


def _is_batch_only(node: NodeProto, indexed: IndexedGraph) -> bool:
    """Check that a Shape node computes no symbolic size but the batch size."""
    first = {attribute.name: attribute.i for attribute in node.attribute}.get("start", 0) == 0
    sizes = _sizes(node, indexed)
    return None not in (sizes[1:] if first else sizes)


def _copies(
    node: NodeProto, indexed: IndexedGraph, segment_input: str, suffix: str, model: ModelProto
) -> list[NodeProto]:
    """Return a segment's copy of a node that computes shapes; the copy of a Shape node reads the segment's input."""
    name, output = node.name + suffix, node.output[0] + suffix
    if node.op_type != "Shape":
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.output[:] = name, [each + suffix for each in node.output]
        return [copy]
    sizes = _sizes(node, indexed)
    nodes, parts = [], []
    if None in sizes:
        parts.append(f"{output}_batch")
        nodes.append(helper.make_node("Shape", [segment_input], parts, f"{name}_batch", start=0, end=1))
    constants = [size for size in sizes if size is not None]
    model.graph.initializer.append(helper.make_tensor(f"{output}_rest", TensorProto.INT64, [len(constants)], constants))
    return [*nodes, helper.make_node("Concat", [*parts, f"{output}_rest"], [output], name, axis=0)]


def _in_order(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """Return the nodes in topological order."""
    by_name = {node.name: node for node in nodes}
    producer = {output: name for name, node in by_name.items() for output in node.output}
    reads = {name: [producer[read] for read in node.input if read in producer] for name, node in by_name.items()}
    return [by_name[name] for name in TopologicalSorter(reads).static_order()]
