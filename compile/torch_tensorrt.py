"""`python -m compile.torch_tensorrt`: segments from torch to TensorRT engines with Torch-TensorRT, without ONNX.

For a desktop GPU with Torch-TensorRT, in fp32 or fp16. Bundles use ONNX, which every TensorRT reads and which can be
verified on a machine without a GPU. An engine has the same tensors as a bundle's segment, so that
`edge.engines.tensorrt.engine.load_engine` loads it.
"""

from edge.entry import start_process

start_process(__name__, imports_torch=True)  # before the imports below, which take a second

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edge.bundle import tensors
from edge.bundle.manifest import InputSpec, SegmentSpec, TensorSpec
from edge.cli.parser import CommandParser
from edge.console import PASSED, run_main, status
from edge.errors import CheckpointError, EngineError, UnavailableError
from edge.storage import write_file
from edge.system import pip_install
from edge.training.checkpoint import read_checkpoint
from edge.training.network import MultiExitNetwork, Stages

INSTALL = pip_install("torch-tensorrt")


class SegmentModule(nn.Module):
    """A stage with its exit's head and decision: the segment contract in torch."""

    def __init__(self, network: MultiExitNetwork, exit_index: int) -> None:
        """Share a stage and a head with a network.

        Raises:
            CheckpointError: the network's stages are not consecutive modules.
        """
        super().__init__()
        if not isinstance(network.backbone, Stages):
            raise CheckpointError(
                "this backbone's stages are not separate modules; use `python -m compile`, which goes through ONNX"
            )
        self.dtype = next(network.parameters()).dtype
        self.stage, self.head = network.backbone.stages[exit_index], network.heads[exit_index]
        self.is_last = exit_index == len(network.heads) - 1

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the cut, logits, attention, confidence, label and exit flag.

        Args:
            inputs: The previous segment's cut, or the image in segment 0, and the threshold. The last segment has no
                threshold, and returns neither cut nor exit flag.
        """
        cut_in, threshold = (inputs, None) if self.is_last else (inputs[:-1], inputs[-1])
        features = self.stage(*(tensor.to(self.dtype) for tensor in cut_in))
        cut_out = features if isinstance(features, tuple) else (features,)
        logits, attention = (tensor.float() for tensor in self.head(cut_out[0]))
        confidence = logits.softmax(dim=-1).amax(dim=-1)
        exit_outputs = (logits, attention, confidence, logits.argmax(dim=-1).int())
        return exit_outputs if threshold is None else (*cut_out, *exit_outputs, confidence >= threshold)


class TorchSegment(NamedTuple):
    """A segment in torch with example inputs."""

    module: SegmentModule
    inputs: tuple[Tensor, ...]
    """Example of each input of the specification, on the network's device."""
    spec: SegmentSpec
    """As in a bundle, except that the batch is 1; tensors are in the module's order."""


def torch_segments(network: MultiExitNetwork, spec: InputSpec) -> Iterator[TorchSegment]:
    """Yield the segments of a network, on its device and in its precision.

    Raises:
        CheckpointError: the network's stages are not consecutive modules.
    """
    device = next(network.parameters()).device
    cut: tuple[Tensor, ...] = (torch.zeros(1, *spec.shape, device=device),)
    for exit_index in range(len(network.heads)):
        module = SegmentModule(network, exit_index).eval()
        inputs = cut if module.is_last else (*cut, torch.ones(1, device=device))
        with torch.no_grad():
            outputs = module(*inputs)
        yield TorchSegment(module, inputs, _segment_spec(module, exit_index, inputs, outputs))
        cut = outputs[: len(outputs) - len(_exit_outputs(exit_index, is_last=module.is_last))]


def segment_engines(network: MultiExitNetwork, spec: InputSpec, *, half: bool) -> dict[str, bytes]:
    """Return each segment's file name and serialised TensorRT engine for batch 1, its tensors named as in a bundle.

    Args:
        network: The network; it is moved to the GPU and converted in place.
        spec: Input of the network.
        half: Build in fp16 instead of fp32.

    Raises:
        CheckpointError: the network's stages are not consecutive modules.
        UnavailableError: there is no GPU, or Torch-TensorRT is missing or too old.
        EngineError: Torch-TensorRT refuses a segment.
    """
    convert = _converter()
    network.to(device="cuda", dtype=torch.float16 if half else torch.float32)
    return {segment.spec.file: engine_from_segment(segment, convert) for segment in torch_segments(network, spec)}


def engine_from_segment(segment: TorchSegment, convert: Callable[..., bytes]) -> bytes:
    """Export a segment and convert it to an engine whose tensors have the specification's names.

    Args:
        segment: The segment.
        convert: Torch-TensorRT's `dynamo.convert_exported_program_to_serialized_trt_engine`.

    Raises:
        EngineError: Torch-TensorRT refuses the segment.
    """
    try:
        return convert(
            torch.export.export(segment.module, segment.inputs),
            arg_inputs=segment.inputs,
            disable_tf32=True,
            max_aux_streams=0,
            require_full_compilation=True,
            # Tuples: the names must have the structure of the program's arguments and outputs.
            arg_input_binding_names=tuple(tensor.name for tensor in segment.spec.inputs),
            output_binding_names=tuple(tensor.name for tensor in segment.spec.outputs),
        )
    except Exception as error:  # torch's and the library's exceptions share no narrower base
        raise EngineError(
            f"Torch-TensorRT cannot build {segment.spec.file} ({' '.join(str(error).split())}); "
            "use `python -m compile`, which goes through ONNX"
        ) from error


def _segment_spec(
    module: SegmentModule, exit_index: int, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> SegmentSpec:
    exit_outputs = _exit_outputs(exit_index, is_last=module.is_last)
    thresholds = () if module.is_last else (tensors.threshold(exit_index),)
    cuts_in = tensors.cut(exit_index - 1, len(inputs) - len(thresholds)) if exit_index else ()
    cuts_out = () if module.is_last else tensors.cut(exit_index, len(outputs) - len(exit_outputs))
    return SegmentSpec(
        file=f"segment_{exit_index}.engine",
        inputs=_tensor_specs((*(cuts_in or (tensors.IMAGE,)), *thresholds), inputs),
        outputs=_tensor_specs((*cuts_out, *exit_outputs), outputs),
        int8_macs_share=0.0,
        exit_index=exit_index,
        cuts_in=cuts_in,
        cuts_out=cuts_out,
    )


def _exit_outputs(exit_index: int, *, is_last: bool) -> tuple[str, ...]:
    """Return the names of a segment's outputs after the cut, in the order of `SegmentModule`."""
    logits, *decision = tensors.exit_outputs(exit_index, is_last=is_last)
    return (logits, tensors.attention(exit_index), *decision)


def _tensor_specs(names: tuple[str, ...], values: tuple[Tensor, ...]) -> tuple[TensorSpec, ...]:
    def dtype(value: Tensor) -> Any:
        return str(value.dtype).removeprefix("torch.")

    return tuple(TensorSpec(name, dtype(value), tuple(value.shape)) for name, value in zip(names, values, strict=True))


def _converter() -> Callable[..., bytes]:
    if not torch.cuda.is_available():
        raise UnavailableError("Torch-TensorRT builds on an NVIDIA GPU, and torch finds none here; use `edge build`")
    try:
        library = importlib.import_module("torch_tensorrt")
    except ImportError as error:
        raise UnavailableError(f"Torch-TensorRT is not installed ({error}); {INSTALL}") from error
    convert: Callable[..., bytes] = library.dynamo.convert_exported_program_to_serialized_trt_engine
    if "output_binding_names" not in inspect.signature(convert).parameters:  # older versions ignore unknown options
        raise UnavailableError(f"Torch-TensorRT {library.__version__} cannot name an engine's tensors; {INSTALL}")
    return convert


def main() -> int:
    """Build the engines of a checkpoint."""
    parser = CommandParser(
        prog="python -m compile.torch_tensorrt", description="Build TensorRT engines with Torch-TensorRT, without ONNX."
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of `python -m edge.training`")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for segment_0.engine, segment_1.engine, …"
    )
    parser.add_argument("--half", action="store_true", help="build in fp16 instead of fp32")
    arguments = parser.parse_args()
    checkpoint = read_checkpoint(arguments.checkpoint)
    with status("building"):
        engines = segment_engines(checkpoint.network(), checkpoint.input, half=arguments.half)
    for file, engine in engines.items():
        write_file(arguments.output / file, engine)
    print(f"wrote {len(engines)} engines to {arguments.output}")
    return PASSED


if __name__ == "__main__":
    run_main(main)
