"""One multi-exit graph to one segment per exit, each the same numbers as before."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from onnx import ModelProto, helper

from compile.graph import QUANTISERS, Graph, exit_count
from edge.errors import CheckpointError

QDQ_AND_CAST = (*QUANTISERS, "Cast")
"""What makes another type of a tensor, and nothing else."""


class Segment(NamedTuple):
    """A slice of the multi-exit graph, from the cut before to its own exit."""

    model: ModelProto
    inputs: list[str]
    outputs: list[str]
    exit_index: int
    cuts_in: tuple[str, ...] = ()
    cuts_out: tuple[str, ...] = ()


def cut_segments(model: ModelProto) -> list[Segment]:
    """Slice a graph with decisions (see `compile.decision_ops`) at its cuts.

    Where a cut is quantised, the int8 tensor is handed over and the next segment begins with DequantizeLinear.
    Sliced at the float tensor instead, the next segment's first convolutions would silently fall back to float.

    Raises:
        CheckpointError: a stage reads around the cut before it, so that segments would not be a chain.
    """
    graph = Graph(model)
    exits = exit_count(model)
    handed_over: list[list[str]] = []
    for index in range(exits - 1):
        later = [output.name for output in model.graph.output if output.name in _answers(range(index + 1, exits))]
        handed_over.append(cut_tensors(graph, _cut_outputs(model, index), later))
    segments = []
    for index in range(exits):
        entering = handed_over[index - 1] if index else ["image"]
        outputs = [output.name for output in model.graph.output if output.name in _answers([index])]
        leaving = handed_over[index] if index < exits - 1 else []
        thresholds = [f"threshold_{index}"] if index < exits - 1 else []
        sliced = _slice(graph, [*entering, *thresholds], [*leaving, *outputs], f"segment {index}", index)
        cuts_in = tuple(_cut_outputs(model, index - 1)) if index else ()
        segments.append(sliced._replace(cuts_in=cuts_in, cuts_out=tuple(_cut_outputs(model, index))))
    _rename_borders(segments, model, handed_over)
    assert_faithful(model, segments)
    return segments


def whole_network(model: ModelProto) -> Segment:
    """Return the network without its early exits: image to the last exit's answer."""
    exits = exit_count(model)
    outputs = [f"logits_{exits - 1}", f"confidence_{exits - 1}", f"label_{exits - 1}"]
    return _slice(Graph(model), ["image"], outputs, "the whole network", exits - 1)


def cut_tensors(graph: Graph, cuts: Sequence[str], later_outputs: Sequence[str]) -> list[str]:
    """Return the tensor to hand over for each tensor of a cut: the last one that all that reads it later has in common.

    Quantisers and casts make several tensors of one; which of them is read later depends on the precision there.
    Where it is a dequantised one, the int8 tensor is handed over.
    """
    aliases = {cut: _aliases(graph, cut) for cut in cuts}
    ends = [name for names in aliases.values() for name in names]
    read = {name for node in graph.ancestors(later_outputs, stop=ends) for name in node.input}
    borders = []
    for cut, names in aliases.items():
        paths = [_path_to(graph, names[0], name) for name in names if name in read] or [[cut]]
        common = [tensors[0] for tensors in zip(*paths, strict=False) if len(set(tensors)) == 1][-1]
        maker = graph.producer.get(common)
        borders.append(maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else common)
    return borders


def _aliases(graph: Graph, cut: str) -> list[str]:
    """Return the tensors that are a cut's in one type or another, the first one made at the head."""
    while (maker := graph.producer[cut]).op_type in QDQ_AND_CAST:
        cut = maker.input[0]
    names = [cut]
    for name in names:  # grows while it is walked
        names += [node.output[0] for node in graph.consumers.get(name, []) if node.op_type in QDQ_AND_CAST]
    return names


def _path_to(graph: Graph, first: str, name: str) -> list[str]:
    path = [name]
    while path[-1] != first:
        path.append(graph.producer[path[-1]].input[0])
    return path[::-1]


def assert_faithful(whole: ModelProto, segments: Sequence[Segment]) -> None:
    """Check that slicing lost nothing: the promises of the segment contract.

    Every node and weight is in exactly one segment (quantisers and scalars at a border may be on both sides), and every
    convolution that is quantised in the whole is quantised in its segment.

    Raises:
        CheckpointError: it is not so.
    """
    before = Graph(whole)
    needed = {
        node.name: node
        for node in before.ancestors(o.name for o in whole.graph.output if not o.name.startswith("cut_"))
    }
    seen: dict[str, int] = {}
    weights: dict[str, int] = {}
    for index, segment in enumerate(segments):
        after = Graph(segment.model)
        for node in after.nodes:
            if node.name in seen and node.op_type not in QUANTISERS:
                raise CheckpointError(
                    f"node {node.name} would run in segments {seen[node.name]} and {index}: a stage reads around a cut"
                )
            seen[node.name] = index
            if node.name not in needed:
                raise CheckpointError(
                    f"node {node.name} makes a cut that no later stage reads; hand on what is read only"
                )
            if node.op_type == "Conv" and before.is_int8(needed[node.name]) != after.is_int8(node):
                raise CheckpointError(f"convolution {node.name} is quantised in the whole but not in segment {index}")
        for name, tensor in after.initializers.items():
            if len(tensor.dims) > 1 and weights.setdefault(name, index) != index:
                raise CheckpointError(f"weight {name} would be in segments {weights[name]} and {index}")
    if missing := sorted(set(needed) - set(seen)):
        raise CheckpointError(f"no segment computes {', '.join(missing)}")


def _slice(graph: Graph, inputs: list[str], outputs: list[str], what: str, exit_index: int) -> Segment:
    nodes = graph.ancestors(outputs, stop=inputs)
    made = {name for node in nodes for name in node.output}
    read = {name for node in nodes for name in node.input if name}
    outside = sorted(read - made - set(inputs) - set(graph.initializers))
    if outside:
        raise CheckpointError(
            f"{what} reads {', '.join(outside)} around the cut before it; "
            "a stage may read only what the one before it made"
        )
    source = graph.model
    sliced = helper.make_graph(
        nodes,
        what.replace(" ", "_"),
        [graph.values[name] for name in inputs],
        [graph.values[name] for name in outputs],
        initializer=[tensor for name, tensor in graph.initializers.items() if name in read],
    )
    model = helper.make_model(
        sliced, opset_imports=source.opset_import, ir_version=source.ir_version, producer_name="early-exit"
    )
    return Segment(model, inputs, outputs, exit_index)


def _cut_outputs(model: ModelProto, index: int) -> list[str]:
    names = [output.name for output in model.graph.output]
    return [name for name in names if name == f"cut_{index}" or name.startswith(f"cut_{index}_")]


def _answers(exits: Iterable[int]) -> set[str]:
    return {f"{kind}_{k}" for k in exits for kind in ("logits", "confidence", "label", "exit", "attention")}


def _rename_borders(segments: Sequence[Segment], model: ModelProto, handed_over: Sequence[Sequence[str]]) -> None:
    """Give the tensors handed over the names of their cuts, whatever the quantiser called them."""
    for index, borders in enumerate(handed_over):
        names = dict(zip(borders, _cut_outputs(model, index), strict=True))
        for segment in segments[index : index + 2]:
            _rename(segment, names)


def _rename(segment: Segment, names: dict[str, str]) -> None:
    taken = {new: f"{new}_float" for old, new in names.items() if new != old}  # the float tensor had the cut's name
    graph = segment.model.graph
    for node in graph.node:
        for fields in (node.input, node.output):
            fields[:] = [names.get(name, taken.get(name, name)) for name in fields]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    segment.inputs[:] = [names.get(name, name) for name in segment.inputs]
    segment.outputs[:] = [names.get(name, name) for name in segment.outputs]
