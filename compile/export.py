"""Trained network to one multi-exit ONNX graph with fixed tensor names."""

import copy
import math

import onnx
import onnx_ir
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor, nn

from compile.around import move_cuts
from compile.evaluate import Evaluator
from compile.graph import IndexedGraph, MultiExitGraph
from compile.quiet import suppress_output
from edge.bundle import tensors
from edge.bundle.manifest import InputSpec
from edge.errors import CheckpointError
from edge.training.network import MultiExitNetwork

OPSET = 20
NEWEST_IR = 10
"""The last ONNX Runtime for JetPack 6's Python 3.10 refuses newer files."""
MAX_MERGED_SIZE = 1024
"""Size of a weight up to which the exporter merges equal ones."""


def export_onnx(network: MultiExitNetwork, spec: InputSpec) -> MultiExitGraph:
    """Export the whole network as one graph with a symbolic batch size.

    Its outputs are the logits and the attention map of every exit, and the tensors of every cut.

    Raises:
        CheckpointError: the network contains an operation that cannot be exported to ONNX, or works for a single batch
            size.
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
        raise CheckpointError(f"this network cannot be exported to ONNX opset {OPSET}: {error}") from error
    model: ModelProto = program.model_proto
    model.ir_version = min(model.ir_version, NEWEST_IR)
    _check_batch_is_symbolic(model)
    _duplicate_constants(model, {f"network.{name}" for name in network.state_dict()})
    _remove_stack_traces(model)
    onnx.checker.check_model(model, full_check=True)
    return move_cuts(MultiExitGraph(model, cuts))


def _check_batch_is_symbolic(model: ModelProto) -> None:
    """Refuse a graph in which the exporter took the example's batch size for constant, without a word."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    if batch.HasField("dim_value"):
        raise CheckpointError(
            f"this network can be exported only for batches of {batch.dim_value} images: its code makes a constant of "
            "the batch size, as len(image) does; write image.shape[0], or train another backbone"
        )


def _fold_resizes(model: ModelProto) -> ModelProto:
    """Compute the weights that are resized in the graph, such as position embeddings for another image size.

    The exporter's optimiser would take minutes for it, and skip the larger ones.
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
        folded = helper.make_model(graph, opset_imports=model.opset_import, ir_version=NEWEST_IR)
        value = Evaluator(folded)({})[resize.output[0]]
        original = next(node for node in model.graph.node if node.output[:1] == resize.output[:1])
        model.graph.node.remove(original)
        model.graph.initializer.append(numpy_helper.from_array(value, resize.output[0]))
    return model


def _remove_stack_traces(model: ModelProto) -> None:
    """Remove the exporter's notes: they hold paths of this machine, and make the file depend on where it was made."""
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
    """Return the names of each cut's tensors, counted by running the network once."""
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
    """Give every node that reads a constant, or a small weight, its own copy.

    The exporter merges equal ones of the whole network, but a segment must contain all it reads.
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
