"""Trained network to one multi-exit ONNX graph with fixed names."""

import copy

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from compile.quiet import suppress_output
from edge.bundle.manifest import InputSpec
from edge.errors import CheckpointError
from edge.training.network import MultiExitNetwork

OPSET = 20
NEWEST_IR = 10
"""The last ONNX Runtime for JetPack 6's Python 3.10 refuses newer files."""


def cut_names(exit_index: int, tensors: int) -> list[str]:
    """Return the names of the tensors handed on after an exit."""
    if tensors == 1:
        return [f"cut_{exit_index}"]
    return [f"cut_{exit_index}_{tensor}" for tensor in range(tensors)]


def export_onnx(network: MultiExitNetwork, spec: InputSpec) -> ModelProto:
    """Return the whole network as one graph, batch symbolic.

    Its outputs are `logits_k` and `attention_k` of every exit and the tensors of every cut.

    Raises:
        CheckpointError: the network computes something ONNX cannot say.
    """
    flat = _FlatOutputs(network).eval()
    example = torch.zeros(2, *spec.shape)
    with torch.no_grad():
        names = _output_names(network, example)
    batch = torch.export.Dim("batch")
    try:
        with suppress_output("torch.onnx"):
            program = torch.onnx.export(
                flat, (example,), dynamo=True, optimize=True, opset_version=OPSET, verbose=False,
                input_names=["image"], output_names=names, dynamic_shapes=({0: batch},),
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        raise CheckpointError(f"this network cannot be exported to ONNX opset {OPSET}: {error}") from error
    assert program is not None  # noqa: S101 - for mypy: dynamo=True always returns a program
    model: ModelProto = program.model_proto
    model.ir_version = min(model.ir_version, NEWEST_IR)
    _share_no_constants(model, {f"network.{name}" for name in network.state_dict()})
    onnx.checker.check_model(model, full_check=True)
    return model


class _FlatOutputs(nn.Module):
    """The network with its outputs in one row, as ONNX wants them."""

    def __init__(self, network: MultiExitNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(image)
        return tuple(tensor for out in outputs for tensor in (out.logits.float(), out.attention, *out.cut))


def _share_no_constants(model: ModelProto, parameters: set[str]) -> None:
    """Give every reader of a constant a copy of its own.

    The exporter merges equal constants of the whole network; a segment must hold all it reads.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in parameters}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in constants:
                own = copy.deepcopy(constants[name])
                own.name = node.input[index] = f"{node.name}.{index}.{name}"
                model.graph.initializer.append(own)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in constants]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _output_names(network: MultiExitNetwork, example: Tensor) -> list[str]:
    names = []
    for index, outputs in enumerate(network(example)):
        names += [f"logits_{index}", f"attention_{index}", *cut_names(index, len(outputs.cut)) * bool(outputs.cut)]
    return names
