"""A stand-in for Torch-TensorRT: engines of the TensorRT stand-in with an exported program's real tensors.

It refuses names without the structure of the program's arguments and outputs, as Torch-TensorRT 2.14 does, and
arguments that the released function does not have, which that one ignores.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from tests.support import tensorrt_stand_in as trt
from tests.support.torch_tensorrt_names import TABLE

DTYPES = {
    torch.float32: trt.DataType.FLOAT,
    torch.float16: trt.DataType.HALF,
    torch.int32: trt.DataType.INT32,
    torch.int64: trt.DataType.INT64,
    torch.bool: trt.DataType.BOOL,
}


class TorchTensorRt:
    """Torch-TensorRT's converter; it keeps the programs it converted."""

    def __init__(self) -> None:
        self.programs: list[ExportedProgram] = []

    def convert(
        self,
        program: ExportedProgram,
        *,
        arg_inputs: Sequence[Tensor],
        arg_input_binding_names: Any,
        output_binding_names: Any,
        **options: Any,
    ) -> bytes:
        """Serialise names, shapes and types of the program's inputs and outputs."""
        assert set(options) <= set(json.loads(TABLE.read_text())["takes"])
        signature = program.module_call_graph[0].signature
        inputs = _named(arg_input_binding_names, list(arg_inputs), signature.in_spec.child(0))
        outputs = _named(output_binding_names, list(program.module()(*arg_inputs)), signature.out_spec)
        self.programs.append(program)
        shapes = [{name: list(tensor.shape) for name, tensor in named.items()} for named in (inputs, outputs)]
        dtypes = {name: DTYPES[tensor.dtype].name for name, tensor in (inputs | outputs).items()}
        model = {"inputs": shapes[0], "outputs": shapes[1], "dtypes": dtypes, "kernels": ["torch"]}
        settings = {"verbosity": trt.ProfilingVerbosity.DETAILED}
        plan = {"model": model, "shapes": {name: [shape] * 3 for name, shape in shapes[0].items()}}
        return json.dumps({**plan, "settings": settings, "timed": []}).encode()


def _named(names: Any, tensors: list[Tensor], structure: pytree.TreeSpec) -> dict[str, Tensor]:
    flat, structure_of_names = pytree.tree_flatten(names)
    if structure_of_names != structure:
        raise ValueError(f"the names' structure {structure_of_names} is not the program's, {structure}")
    return dict(zip(flat, tensors, strict=True))
