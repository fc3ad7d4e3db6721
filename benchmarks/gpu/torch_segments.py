"""Chains of torch modules, behind the seam that TensorRT's engines stand behind; torch's kernels, no TensorRT."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.segments import classifier_of
from compile.torch_tensorrt import torch_segments
from edge.bundle.manifest import InputSpec, SegmentSpec, TensorSpec
from edge.cuda.runtime import Runtime
from edge.inference.classifier import Classifier
from edge.training.network import MultiExitNetwork


class TorchEngine:
    """A torch module as a segment, beside whatever else torch does in this process."""

    def __init__(self, module: nn.Module, spec: SegmentSpec) -> None:
        """Move a module to the GPU; its tensors are in the order of its specification."""
        self._module, self._spec = module.cuda().eval(), spec

    def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
        """Tie addresses to the module."""
        run, (given, wanted) = self._runner(), self._tensors(addresses, 1)
        return lambda stream: run(stream, given, wanted)

    def bind_batch(self, addresses: Mapping[str, int]) -> Callable[[int, int], None]:
        """Tie addresses to the module for any number of images."""
        run = self._runner()
        return lambda stream, images: run(stream, *self._tensors(addresses, images))

    def _tensors(self, addresses: Mapping[str, int], images: int) -> list[list[Tensor]]:
        both = self._spec.inputs, self._spec.outputs
        return [[_at(addresses[one.name], one, images) for one in tensors] for tensors in both]

    def _runner(self) -> Callable[[int, list[Tensor], list[Tensor]], None]:
        """Return what enqueues the module.

        With memory of its own for what is between: torch hands memory on by a stream's handle, and the driver gives
        the handle of a stream that is gone to the next.
        """
        pool = torch.cuda.MemPool()

        def enqueue(stream: int, given: list[Tensor], wanted: list[Tensor]) -> None:
            torch._C._cuda_clearCublasWorkspaces()  # which go by handle, too
            on = torch.cuda.stream(torch.cuda.ExternalStream(stream))  # type: ignore[no-untyped-call]  # torch left it so
            with torch.no_grad(), torch.cuda.use_mem_pool(pool), on:
                for out, found in zip(wanted, self._module(*given), strict=True):
                    out.copy_(found)

        return enqueue


def torch_classifier(
    runtime: Runtime, network: MultiExitNetwork, spec: InputSpec, thresholds: Sequence[float]
) -> Classifier:
    """Return a classifier of a network's own modules."""
    parts = list(torch_segments(network, spec))
    segments = tuple(part.spec for part in parts)
    engines = [TorchEngine(part.module, part.spec) for part in parts]
    return classifier_of(runtime, spec, segments, engines, thresholds)


def _at(address: int, spec: TensorSpec, images: int) -> Tensor:
    """Return memory of the GPU as a tensor."""
    shape = spec.shape if spec.name.startswith("threshold_") else (images, *spec.shape[1:])
    place = {"data": (address, False), "shape": shape, "typestr": np.dtype(spec.dtype).str, "version": 3}
    return torch.as_tensor(type("Memory", (), {"__cuda_array_interface__": place})(), device="cuda")
