"""Trained network to one multi-exit ONNX graph with fixed tensor names."""

import copy
import math
from collections.abc import Sequence

import onnx
import onnx_ir
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor, nn

from compile.evaluate import Evaluator
from compile.graph import IndexedGraph, MultiExitGraph
from compile.isolation import move_cuts
from compile.quiet import suppress_output
from edge.bundle import tensors
from edge.bundle.manifest import InputSpec
from edge.errors import CheckpointError
from edge.training.network import MultiExitNetwork

OPSET = 20
MAX_IR_VERSION = 10
"""Newest ONNX IR version that the last ONNX Runtime for JetPack 6's Python 3.10 reads."""
MAX_MERGED_SIZE = 1024
"""Largest number of values at which the exporter merges equal weights."""


def export_onnx(network: MultiExitNetwork, spec: InputSpec) -> MultiExitGraph:
    """Export the whole network as one graph with a symbolic batch size.

    Its outputs are the logits and the attention map of every exit, and the tensors of every cut.

    Raises:
        CheckpointError: the network contains an operation that cannot be exported to ONNX, or fixes the batch size.
    """
    flat = _FlatOutputs(network).eval()
    example = torch.zeros(2, *spec.shape)
    cuts = _cut_names(network, example)
    batch = torch.export.Dim("batch")
    try:
        with suppress_output("torch.onnx"):
            program = torch.onnx.export(
                flat, (example,), dynamo=True, optimize=False, opset_version=OPSET, verbose=False,
                input_names=[tensors.IMAGE], output_names=_output_names(cuts), dynamic_shapes=({0: batch},),
            )  # fmt: skip
            assert program is not None  # noqa: S101 - for mypy: dynamo=True always returns a program
            program.model = onnx_ir.from_proto(_fold_resizes(program.model_proto))
            program.optimize()
    except torch.onnx.errors.OnnxExporterError as error:
        raise CheckpointError(
            f"this network cannot be exported to ONNX opset {OPSET} ({error}); train another backbone"
        ) from error
    model: ModelProto = program.model_proto
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    _check_batch_is_symbolic(model)
    _check_outputs(model, _output_names(cuts))
    _duplicate_constants(model, {f"network.{name}" for name in network.state_dict()})
    _remove_stack_traces(model)
    onnx.checker.check_model(model, full_check=True)
    return move_cuts(MultiExitGraph(model, cuts))


def _check_batch_is_symbolic(model: ModelProto) -> None:
    """Refuse a graph in which the exporter silently replaced the batch size by a constant."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    if batch.HasField("dim_value"):
        raise CheckpointError(
            f"this network can be exported only for batches of {batch.dim_value} images: its code makes the batch size "
            "a constant, as len(image) does; write image.shape[0], or train another backbone"
        )


def _check_outputs(model: ModelProto, names: Sequence[str]) -> None:
    """Refuse a graph in which the exporter merged two outputs because a stage returns one of its inputs."""
    if missing := sorted(set(names) - {output.name for output in model.graph.output}):
        raise CheckpointError(
            f"{', '.join(missing)} would bypass a later cut: a stage returns one of its inputs unchanged; "
            "let it return new tensors only"
        )


def _fold_resizes(model: ModelProto) -> ModelProto:
    """Replace resized weights by constants, such as position embeddings for another image size.

    The exporter's optimiser would take minutes and skip large weights.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    indexed = IndexedGraph(model)
    for resize in [node for node in indexed.nodes if node.op_type == "Resize"]:
        nodes = indexed.ancestors(resize.output)
        read = {name for node in nodes for name in node.input if name}
        if not read <= initializers | {name for node in nodes for name in node.output}:
            continue
        constants = [tensor for tensor in model.graph.initializer if tensor.name in read]
        graph = helper.make_graph(nodes, "resize", [], [indexed.values[resize.output[0]]], constants)
        folded = helper.make_model(graph, opset_imports=model.opset_import, ir_version=MAX_IR_VERSION)
        value = Evaluator(folded)({})[resize.output[0]]
        original = next(node for node in model.graph.node if node.output[:1] == resize.output[:1])
        model.graph.node.remove(original)
        model.graph.initializer.append(numpy_helper.from_array(value, resize.output[0]))
    return model


def _remove_stack_traces(model: ModelProto) -> None:
    """Remove the exporter's metadata, which contains paths of this machine: equal networks shall give equal files."""
    graph = model.graph
    for proto in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del proto.metadata_props[:]


class _FlatOutputs(nn.Module):
    """The network with its outputs as one flat tuple, which ONNX requires."""

    def __init__(self, network: MultiExitNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(image)
        return tuple(tensor for out in outputs for tensor in (out.logits.float(), out.attention, *out.cut))


def _cut_names(network: MultiExitNetwork, example: Tensor) -> tuple[tuple[str, ...], ...]:
    """Return the names of each cut's tensors; their number is known from running the network once."""
    with torch.no_grad():
        *early, _ = network(example)
    return tuple(tensors.cut(index, len(outputs.cut)) for index, outputs in enumerate(early))


def _output_names(cuts: tuple[tuple[str, ...], ...]) -> list[str]:
    """Return the names of the outputs of `_FlatOutputs`, in its order; the last exit has no cut."""
    return [
        name
        for index, cut in enumerate((*cuts, ()))
        for name in (tensors.logits(index), tensors.attention(index), *cut)
    ]


def _duplicate_constants(model: ModelProto, parameters: set[str]) -> None:
    """Give every node its own copy of the constants and small weights that it reads.

    The exporter merges equal constants of the whole network, but a segment must contain all that it reads.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    used: set[str] = set()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name not in initializers:
                continue
            if name not in parameters or (name in used and math.prod(initializers[name].dims) <= MAX_MERGED_SIZE):
                duplicate = copy.deepcopy(initializers[name])
                duplicate.name = node.input[index] = f"{node.name}.{index}.{name}"
                model.graph.initializer.append(duplicate)
            used.add(node.input[index])
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
