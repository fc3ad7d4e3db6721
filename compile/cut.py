"""Multi-exit graph to one segment per exit, with identical outputs."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from onnx import ModelProto, NodeProto, helper

from compile.concat import quantise_before_concat
from compile.graph import CONVOLUTIONS, QUANTISERS, IndexedGraph, MultiExitGraph
from compile.isolation import localise_shapes
from edge.bundle import tensors
from edge.errors import CheckpointError

QDQ_AND_CAST = (*QUANTISERS, "Cast")
"""Operators that change the type of a tensor and nothing else."""
REPORT = "report this with the checkpoint"
"""Remedy for faults that only this project can correct."""


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

    If a cut is quantised, its int8 tensor is passed on and the next segment begins with DequantizeLinear. If the float
    tensor were passed on, the next segment's first convolutions would silently fall back to float.

    Raises:
        CheckpointError: a stage bypasses the cut before it, so the segments would not be a chain.
    """
    indexed = IndexedGraph(graph.model)
    cuts = [cut_tensors(indexed, cut, graph.later_outputs(k)) for k, cut in enumerate(graph.cuts)]
    graph = localise_shapes(graph, [tuple(passed_on.values()) for passed_on in cuts])
    indexed = IndexedGraph(graph.model)
    segments = [
        _segment(indexed, k, cut_in, cut_out, graph.exit_outputs(k))
        for k, (cut_in, cut_out) in enumerate(pairwise([{}, *cuts, {}]))
    ]
    assert_complete(graph, segments)
    for segment in segments:
        quantise_before_concat(segment.model)
    return segments


def whole_network(graph: MultiExitGraph) -> Segment:
    """Return the network without its early exits: from the image to the last exit's decision."""
    last = graph.exits - 1
    outputs = tensors.exit_outputs(last, is_last=True)
    model = _slice(IndexedGraph(graph.model), [tensors.IMAGE], outputs, "the whole network")
    quantise_before_concat(model)
    return Segment(model, last)


def cut_tensors(indexed: IndexedGraph, cut: Sequence[str], later_outputs: Sequence[str]) -> dict[str, str]:
    """Return the tensor of the graph to pass on for each tensor of a cut.

    Q/DQ nodes and casts make several tensors with the same values, and the precision of a later node decides which it
    reads. The tensor to pass on is the last that all later readers have in common; if it is dequantised, the int8
    tensor before it.
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


def assert_complete(graph: MultiExitGraph, segments: Sequence[Segment]) -> None:
    """Check that the segments together are the graph.

    Every node and weight is in exactly one segment (Q/DQ nodes and scalars at a cut may be in two), and every
    convolution that is quantised in the graph is quantised in its segment.

    Raises:
        CheckpointError: a node, a weight or its quantisation is missing, or a node or weight is in two segments.
    """
    indexed = IndexedGraph(graph.model)
    sliced = [IndexedGraph(segment.model) for segment in segments]
    outputs = [name for k in range(graph.exits) for name in graph.exit_outputs(k)]
    needed = {node.name: node for node in indexed.ancestors(outputs)}
    _assert_each_node_once(needed, sliced)
    _assert_each_weight_once(sliced)
    _assert_int8_kept(indexed, needed, sliced)
    if missing := sorted(set(needed) - {node.name for segment in sliced for node in segment.nodes}):
        raise CheckpointError(f"no segment computes {', '.join(missing)}; {REPORT}")


def _assert_each_node_once(needed: Container[str], sliced: Sequence[IndexedGraph]) -> None:
    segment_of: dict[str, int] = {}
    for index, segment in enumerate(sliced):
        for node in segment.nodes:
            if node.name in segment_of and node.op_type not in QUANTISERS:
                raise CheckpointError(
                    f"node {node.name} would run in segments {segment_of[node.name]} and {index}: a stage bypasses a "
                    "cut; let each stage read the outputs of the stage before it only"
                )
            if node.name not in needed:
                raise CheckpointError(
                    f"node {node.name} computes a cut that no later stage reads; "
                    "let each stage return only tensors that the next stage reads"
                )
            segment_of[node.name] = index


def _assert_each_weight_once(sliced: Sequence[IndexedGraph]) -> None:
    segment_of: dict[str, int] = {}
    for index, segment in enumerate(sliced):
        for name, tensor in segment.initializers.items():
            if len(tensor.dims) > 1 and segment_of.setdefault(name, index) != index:
                raise CheckpointError(f"weight {name} would be in segments {segment_of[name]} and {index}; {REPORT}")


def _assert_int8_kept(indexed: IndexedGraph, needed: Mapping[str, NodeProto], sliced: Sequence[IndexedGraph]) -> None:
    for index, segment in enumerate(sliced):
        for node in segment.nodes:
            if node.op_type in CONVOLUTIONS and indexed.is_int8(needed[node.name]) != segment.is_int8(node):
                raise CheckpointError(
                    f"convolution {node.name} is quantised in the whole graph but not in segment {index}; {REPORT}"
                )


def _readers(indexed: IndexedGraph, outputs: Sequence[str], stop: Sequence[str]) -> list[NodeProto]:
    """Return the nodes that compute `outputs` from values, not only from shapes."""
    return [node for node in indexed.ancestors(outputs, stop, through_shapes=False) if node.op_type != "Shape"]


def _aliases(indexed: IndexedGraph, name: str) -> list[str]:
    """Return the tensors with a tensor's values in any type, the original first."""
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
    """Slice segment k out of the graph; both cuts map a tensor's name in the bundle to its name in the graph."""
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
            f"{name} reads {', '.join(outside)}, bypassing the cut before it; "
            "let each stage read the outputs of the stage before it only"
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
    """Rename tensors; a tensor whose name is taken by another gets the suffix `_float`."""
    replaced = {new: f"{new}_float" for old, new in names.items() if new != old}
    for node in model.graph.node:
        for fields in (node.input, node.output):
            fields[:] = [names.get(name, replaced.get(name, name)) for name in fields]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
