"""A stand-in for Torch-TensorRT: engines of the TensorRT stand-in with an exported program's real tensors.

Like Torch-TensorRT 2.14, it refuses names without the structure of the program's arguments and outputs. Unlike it, it
refuses unknown arguments. Engines can compute on the GPU stand-in: with the programs they were converted from.
"""

import json
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from tests.support import tensorrt_stand_in as trt
from tests.support.torch_tensorrt_names import TABLE

if TYPE_CHECKING:
    from tests.support.cuda_stand_in import World

DTYPES = {
    torch.float32: trt.DataType.FLOAT,
    torch.float16: trt.DataType.HALF,
    torch.int32: trt.DataType.INT32,
    torch.int64: trt.DataType.INT64,
    torch.bool: trt.DataType.BOOL,
}


class TorchTensorRt:
    """Torch-TensorRT's converter.

    Attributes:
        programs: The converted programs by the names of their inputs and outputs.
    """

    def __init__(self) -> None:
        self.programs: dict[tuple[str, ...], ExportedProgram] = {}

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
        self.programs[(*inputs, *outputs)] = program
        shapes = [{name: list(tensor.shape) for name, tensor in named.items()} for named in (inputs, outputs)]
        dtypes = {name: DTYPES[tensor.dtype].name for name, tensor in (inputs | outputs).items()}
        model = {"inputs": shapes[0], "outputs": shapes[1], "dtypes": dtypes, "kernels": ["torch"]}
        settings = {"verbosity": trt.ProfilingVerbosity.DETAILED}
        plan = {"model": model, "shapes": {name: [shape] * 3 for name, shape in shapes[0].items()}}
        return json.dumps({**plan, "settings": settings, "timed": []}).encode()

    def compute_on(self, world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
        """Let engines compute on a GPU stand-in, in stream order."""
        from tests.support.cuda_stand_in import KernelNode

        enqueue = trt.IExecutionContext.execute_async_v3

        def enqueue_program(context: Any, stream: int) -> bool:
            names = tuple(context._engine._tensors)
            arrays = {name: _memory(world, context, name) for name in names}
            world.streams[stream].add(KernelNode("engine", lambda _: _run(self.programs[names], arrays)))
            return enqueue(context, stream)

        monkeypatch.setattr(trt.IExecutionContext, "execute_async_v3", enqueue_program)


def _memory(world: "World", context: Any, name: str) -> Tensor:
    engine = context._engine
    dtype = next(torch_dtype for torch_dtype, kind in DTYPES.items() if kind == engine.get_tensor_dtype(name))
    shape = engine.get_tensor_shape(name)
    kind = str(dtype).removeprefix("torch.")
    return torch.from_numpy(world.array(context._addresses[name], kind, prod(shape)).reshape(shape))


def _run(program: ExportedProgram, arrays: dict[str, Tensor]) -> None:
    values = list(arrays.values())
    inputs = values[: program.module_call_graph[0].signature.in_spec.num_leaves]
    with torch.no_grad():
        results = program.module()(*(value.clone() for value in inputs))
    for array, result in zip(values[len(inputs) :], results, strict=True):
        array.copy_(result)


def _named(names: Any, tensors: list[Tensor], structure: pytree.TreeSpec) -> dict[str, Tensor]:
    flat, structure_of_names = pytree.tree_flatten(names)
    if structure_of_names != structure:
        raise ValueError(f"the names' structure {structure_of_names} is not the program's, {structure}")
    return dict(zip(flat, tensors, strict=True))
