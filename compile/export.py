"""Trained network to one multi-exit ONNX graph with fixed tensor names."""

import copy

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from compile.graph import MultiExitGraph
from compile.quiet import suppress_output
from edge.bundle import tensors
from edge.bundle.manifest import InputSpec
from edge.errors import CheckpointError
from edge.training.network import MultiExitNetwork

OPSET = 20
NEWEST_IR = 10
"""The last ONNX Runtime for JetPack 6's Python 3.10 refuses newer files."""


def export_onnx(network: MultiExitNetwork, spec: InputSpec) -> MultiExitGraph:
    """Export the whole network as one graph with a symbolic batch size.

    Its outputs are the logits and the attention map of every exit, and the tensors of every cut.

    Raises:
        CheckpointError: the network contains an operation that cannot be exported to ONNX.
    """
    flat = _FlatOutputs(network).eval()
    example = torch.zeros(2, *spec.shape)
    cuts = _cut_names(network, example)
    batch = torch.export.Dim("batch")
    try:
        with suppress_output("torch.onnx"):
            program = torch.onnx.export(
                flat, (example,), dynamo=True, optimize=True, opset_version=OPSET, verbose=False,
                input_names=[tensors.IMAGE], output_names=_output_names(cuts), dynamic_shapes=({0: batch},),
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        raise CheckpointError(f"this network cannot be exported to ONNX opset {OPSET}: {error}") from error
    assert program is not None  # noqa: S101 - for mypy: dynamo=True always returns a program
    model: ModelProto = program.model_proto
    model.ir_version = min(model.ir_version, NEWEST_IR)
    _duplicate_constants(model, {f"network.{name}" for name in network.state_dict()})
    _remove_stack_traces(model)
    onnx.checker.check_model(model, full_check=True)
    return MultiExitGraph(model, cuts)


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
    """Give every node that reads a constant its own copy.

    The exporter merges equal constants of the whole network, but a segment must contain all it reads.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in parameters}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in constants:
                duplicate = copy.deepcopy(constants[name])
                duplicate.name = node.input[index] = f"{node.name}.{index}.{name}"
                model.graph.initializer.append(duplicate)
    used = [tensor for tensor in model.graph.initializer if tensor.name not in constants]
    del model.graph.initializer[:]
    model.graph.initializer.extend(used)
