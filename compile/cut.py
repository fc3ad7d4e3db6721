"""Multi-exit graph to one segment per exit, with unchanged numbers."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from onnx import ModelProto, NodeProto, helper

from compile.around import localise_shapes
from compile.graph import QUANTISERS, IndexedGraph, MultiExitGraph
from edge.bundle import tensors
from edge.errors import CheckpointError

QDQ_AND_CAST = (*QUANTISERS, "Cast")
"""Operators that change the type of a tensor and nothing else."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A slice of the multi-exit graph, from the previous exit's cut to its own exit."""

    model: ModelProto
    exit_index: int
    cuts_in: tuple[str, ...] = ()
    """Inputs that are the previous segment's cut; empty in segment 0."""
    cuts_out: tuple[str, ...] = ()
    """Outputs that are this segment's cut; empty in the last segment."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs."""
        return tuple(value.name for value in self.model.graph.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs."""
        return tuple(value.name for value in self.model.graph.output)


def cut_segments(graph: MultiExitGraph) -> list[Segment]:
    """Slice a graph with decisions (see `compile.decision_ops`) at its cuts.

    Where a cut is quantised, its int8 tensor is passed on and the next segment begins with DequantizeLinear. Sliced
    at the float tensor instead, the next segment's first convolutions would silently fall back to float.

    Raises:
        CheckpointError: a stage reads a tensor from before the previous cut, so the segments would not be a chain.
    """
    indexed = IndexedGraph(graph.model)
    cuts = [cut_tensors(indexed, cut, _later_outputs(graph, k)) for k, cut in enumerate(graph.cuts)]
    graph = localise_shapes(graph, [tuple(passed_on.values()) for passed_on in cuts])
    indexed = IndexedGraph(graph.model)
    segments = [
        _segment(indexed, k, cut_in, cut_out, graph.exit_outputs(k))
        for k, (cut_in, cut_out) in enumerate(pairwise([{}, *cuts, {}]))
    ]
    assert_faithful(graph, segments)
    return segments


def whole_network(graph: MultiExitGraph) -> Segment:
    """Return the network without its early exits: from the image to the last exit's decision."""
    last = graph.exits - 1
    outputs = tensors.exit_outputs(last, is_last=True)
    return Segment(_slice(IndexedGraph(graph.model), [tensors.IMAGE], outputs, "the whole network"), last)


def cut_tensors(indexed: IndexedGraph, cut: Sequence[str], later_outputs: Sequence[str]) -> dict[str, str]:
    """Return for each tensor of a cut the tensor of the graph to pass on.

    Q/DQ nodes and casts make several tensors of one, and the precision of a later node decides which of them it reads.
    The tensor to pass on is the last one that all later readers have in common; if it is a dequantised tensor, the
    int8 tensor before it.
    """
    aliases = {name: _aliases(indexed, name) for name in cut}
    stop = [alias for names in aliases.values() for alias in names]
    read = {name for node in _readers(indexed, later_outputs, stop) for name in node.input}
    passed_on = {}
    for name, names in aliases.items():
        paths = [_path(indexed, names[0], alias) for alias in names if alias in read] or [[name]]
        common = [step[0] for step in zip(*paths, strict=False) if len(set(step)) == 1][-1]
        producer = indexed.producer.get(common)
        if producer is not None and producer.op_type == "DequantizeLinear":
            common = producer.input[0]
        passed_on[name] = common
    return passed_on


def assert_faithful(graph: MultiExitGraph, segments: Sequence[Segment]) -> None:
    """Check the contract of slicing.

    Every node and weight is in exactly one segment (Q/DQ nodes and scalars at a cut may be on both sides), and every
    convolution that is quantised in the graph is quantised in its segment.

    Raises:
        CheckpointError: the segments break the contract.
    """
    indexed = IndexedGraph(graph.model)
    sliced = [IndexedGraph(segment.model) for segment in segments]
    outputs = [name for k in range(graph.exits) for name in graph.exit_outputs(k)]
    needed = {node.name: node for node in indexed.ancestors(outputs)}
    _assert_each_node_once(needed, sliced)
    _assert_each_weight_once(sliced)
    _assert_int8_kept(indexed, needed, sliced)
    if missing := sorted(set(needed) - {node.name for segment in sliced for node in segment.nodes}):
        raise CheckpointError(f"no segment computes {', '.join(missing)}")


def _assert_each_node_once(needed: Container[str], sliced: Sequence[IndexedGraph]) -> None:
    segment_of: dict[str, int] = {}
    for index, segment in enumerate(sliced):
        for node in segment.nodes:
            if node.name in segment_of and node.op_type not in QUANTISERS:
                raise CheckpointError(
                    f"node {node.name} would run in segments {segment_of[node.name]} and {index}: a stage reads "
                    "around a cut; a stage may read only the tensors of the stage before it"
                )
            if node.name not in needed:
                raise CheckpointError(
                    f"node {node.name} makes a cut that no later stage reads; return only tensors that are read"
                )
            segment_of[node.name] = index


def _assert_each_weight_once(sliced: Sequence[IndexedGraph]) -> None:
    segment_of: dict[str, int] = {}
    for index, segment in enumerate(sliced):
        for name, tensor in segment.initializers.items():
            if len(tensor.dims) > 1 and segment_of.setdefault(name, index) != index:
                raise CheckpointError(f"weight {name} would be in segments {segment_of[name]} and {index}")


def _assert_int8_kept(indexed: IndexedGraph, needed: Mapping[str, NodeProto], sliced: Sequence[IndexedGraph]) -> None:
    for index, segment in enumerate(sliced):
        for node in segment.nodes:
            if node.op_type == "Conv" and indexed.is_int8(needed[node.name]) != segment.is_int8(node):
                raise CheckpointError(
                    f"convolution {node.name} is quantised in the whole graph but not in segment {index}"
                )


def _later_outputs(graph: MultiExitGraph, exit_index: int) -> list[str]:
    return [name for k in range(exit_index + 1, graph.exits) for name in graph.exit_outputs(k)]


def _readers(indexed: IndexedGraph, outputs: Sequence[str], stop: Sequence[str]) -> list[NodeProto]:
    """Return the nodes that compute `outputs` from values, not only from shapes."""
    return [node for node in indexed.data_ancestors(outputs, stop) if node.op_type != "Shape"]


def _aliases(indexed: IndexedGraph, name: str) -> list[str]:
    """Return the tensors that hold a tensor's values in any type, the original first."""
    while (producer := indexed.producer[name]).op_type in QDQ_AND_CAST:
        name = producer.input[0]
    aliases = [name]
    for alias in aliases:  # grows during the iteration
        aliases += [node.output[0] for node in indexed.consumers.get(alias, []) if node.op_type in QDQ_AND_CAST]
    return aliases


def _path(indexed: IndexedGraph, original: str, alias: str) -> list[str]:
    """Return the tensors from the original to its alias."""
    path = [alias]
    while path[-1] != original:
        path.append(indexed.producer[path[-1]].input[0])
    return path[::-1]


def _segment(
    indexed: IndexedGraph, k: int, cut_in: dict[str, str], cut_out: dict[str, str], exit_outputs: Sequence[str]
) -> Segment:
    """Slice segment k out of the graph. Both cuts map the name of a tensor to the graph's tensor that is passed on."""
    threshold = [tensors.threshold(k)] if cut_out else []
    inputs = [*cut_in.values()] if k else [tensors.IMAGE]
    model = _slice(indexed, [*inputs, *threshold], [*cut_out.values(), *exit_outputs], f"segment {k}")
    _rename_tensors(model, {passed_on: name for name, passed_on in (cut_in | cut_out).items()})
    return Segment(model, k, tuple(cut_in), tuple(cut_out))


def _slice(indexed: IndexedGraph, inputs: Sequence[str], outputs: Sequence[str], name: str) -> ModelProto:
    nodes = indexed.ancestors(outputs, stop=inputs)
    produced = {tensor for node in nodes for tensor in node.output}
    read = {tensor for node in nodes for tensor in node.input if tensor}
    outside = sorted(read - produced - set(inputs) - set(indexed.initializers))
    if outside:
        raise CheckpointError(
            f"{name} reads {', '.join(outside)} around the cut before it; "
            "a stage may read only the tensors of the stage before it"
        )
    sliced = helper.make_graph(
        nodes,
        name.replace(" ", "_"),
        [indexed.values[tensor] for tensor in inputs],
        [indexed.values[tensor] for tensor in outputs],
        initializer=[tensor for tensor_name, tensor in indexed.initializers.items() if tensor_name in read],
    )
    source = indexed.model
    return helper.make_model(
        sliced, opset_imports=source.opset_import, ir_version=source.ir_version, producer_name="early-exit"
    )


def _rename_tensors(model: ModelProto, names: Mapping[str, str]) -> None:
    """Rename tensors; a tensor that had one of the new names gets the suffix `_float`."""
    replaced = {new: f"{new}_float" for old, new in names.items() if new != old}
    for node in model.graph.node:
        for fields in (node.input, node.output):
            fields[:] = [names.get(name, replaced.get(name, name)) for name in fields]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
