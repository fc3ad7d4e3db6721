"""`python -m compile.torch_tensorrt`: segments straight from torch to TensorRT engines, without ONNX between.

For a desktop GPU on which Torch-TensorRT is installed, in fp32 or fp16. Everything else goes by ONNX, which every
TensorRT reads and a machine without a GPU can check.
"""

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edge.bundle import tensors as tensor_names
from edge.bundle.manifest import InputSpec
from edge.console import PASSED, run_main, status
from edge.errors import CheckpointError, EngineError
from edge.storage import write_file
from edge.training.checkpoint import read_checkpoint
from edge.training.network import MultiExitNetwork, Stages


class SegmentModule(nn.Module):
    """A stage with its exit's head and decision: the segment contract in torch."""

    def __init__(self, network: MultiExitNetwork, index: int, *, half: bool) -> None:
        """Take one stage and head out of a network.

        Raises:
            CheckpointError: the network's stages are no modules in a row.
        """
        super().__init__()
        if not isinstance(network.backbone, Stages):
            raise CheckpointError("this backbone's stages cannot be taken apart in torch; compile it by way of ONNX")
        self.dtype = torch.float16 if half else torch.float32
        self.stage = network.backbone.stages[index].to(self.dtype)
        self.head = network.heads[index].to(self.dtype)
        self.is_last = index == len(network.heads) - 1

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Take the cut before (segment 0: the image) and the threshold; return cut, logits, confidence, label, exit."""
        entering, threshold = (tensors, None) if self.is_last else (tensors[:-1], tensors[-1])
        produced = self.stage(*(tensor.to(self.dtype) for tensor in entering))
        cut = produced if isinstance(produced, tuple) else (produced,)
        logits = self.head(cut[0])[0].float()
        confidence = logits.softmax(dim=-1).amax(dim=-1)
        answer = (logits, confidence, logits.argmax(dim=-1).int())
        return answer if threshold is None else (*cut, *answer, confidence >= threshold)


class Part(NamedTuple):
    """A segment in torch, and its tensors by name for one image, in the order it takes and returns them."""

    module: SegmentModule
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def taken_apart(network: MultiExitNetwork, spec: InputSpec, *, half: bool) -> Iterator[Part]:
    """Yield each segment of a network, on the device that it is on, its tensors named as in a bundle.

    Raises:
        CheckpointError: the network's stages are no modules in a row.
    """
    device = next(network.parameters()).device
    tensors: tuple[Tensor, ...] = (torch.zeros(1, *spec.shape, device=device),)
    for index in range(len(network.heads)):
        module = SegmentModule(network, index, half=half).eval()
        inputs = tensors if module.is_last else (*tensors, torch.ones(1, device=device))
        with torch.no_grad():
            outputs = module(*inputs)
        cuts = () if module.is_last else outputs[:-4]
        entering = input_names(index, len(tensors), is_last=module.is_last)
        leaving = output_names(index, len(cuts), is_last=module.is_last)
        yield Part(module, dict(zip(entering, inputs, strict=True)), dict(zip(leaving, outputs, strict=True)))
        tensors = cuts


def segment_engines(network: MultiExitNetwork, spec: InputSpec, *, half: bool) -> list[bytes]:
    """Return each segment as a serialised TensorRT engine for batch 1, its tensors named as in a bundle.

    Raises:
        CheckpointError: the network's stages are no modules in a row.
        EngineError: Torch-TensorRT or a GPU is missing.
    """
    library = _library()
    engines = []
    for part in taken_apart(network, spec, half=half):
        inputs = tuple(tensor.cuda() for tensor in part.inputs.values())
        program = torch.export.export(part.module.cuda(), inputs)
        engines.append(
            library.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=list(program.example_inputs[0]),
                disable_tf32=True,
                max_aux_streams=0,
                require_full_compilation=True,
                arg_input_binding_names=list(part.inputs),
                output_binding_names=list(part.outputs),
            )
        )
    return engines


def input_names(index: int, entering: int, *, is_last: bool) -> list[str]:
    """Return what a segment's inputs are called."""
    names = ["image"] if index == 0 else [*tensor_names.cut(index - 1, entering)]
    return names if is_last else [*names, f"threshold_{index}"]


def output_names(index: int, leaving: int, *, is_last: bool) -> list[str]:
    """Return what a segment's outputs are called."""
    answer = [f"{kind}_{index}" for kind in ("logits", "confidence", "label")]
    return answer if is_last else [*tensor_names.cut(index, leaving), *answer, f"exit_{index}"]


def _library() -> ModuleType:
    if not torch.cuda.is_available():
        raise EngineError("Torch-TensorRT builds on an NVIDIA GPU, and torch finds none here; use `edge build`")
    try:
        return importlib.import_module("torch_tensorrt")
    except ImportError as error:
        raise EngineError(f"Torch-TensorRT is not installed ({error}); pip install torch-tensorrt") from error


def main() -> int:
    """Build as the command line says."""
    new = argparse.ArgumentParser(prog="python -m compile.torch_tensorrt", description="Engines straight from torch.")
    new.add_argument("checkpoint", type=Path, help="checkpoint.pt of `python -m edge.training`")
    new.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for segment_0.engine and so on")
    new.add_argument("--half", action="store_true", help="fp16 instead of fp32")
    arguments = new.parse_args()
    checkpoint = read_checkpoint(arguments.checkpoint)
    with status("building"):
        engines = segment_engines(checkpoint.network(), checkpoint.input, half=arguments.half)
    for index, engine in enumerate(engines):
        write_file(arguments.output / f"segment_{index}.engine", engine)
    print(f"wrote {len(engines)} engines to {arguments.output}")
    return PASSED


if __name__ == "__main__":
    run_main(main)
