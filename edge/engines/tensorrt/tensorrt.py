"""TensorRT: engines for the GPU in this machine."""

import tensorrt as trt

from edge.cuda.identity import device_facts
from edge.engines.base import BuildOrder, OnPhase
from edge.engines.tensorrt.builder import OPTIONS, TensorRtOrder
from edge.engines.tensorrt.engine import RunsOnTheGpu
from edge.engines.tensorrt.subprocess_build import build_in_child


class TensorRt(RunsOnTheGpu):
    """Builds and runs segments on the GPU in this machine."""

    name = "tensorrt"
    library = trt

    def device_key(self) -> dict[str, str]:
        """Return what an engine depends on: the library's version, the GPU and its driver, our options."""
        return {"version": str(trt.__version__), **OPTIONS, **device_facts()}

    def build(self, order: BuildOrder, on_phase: OnPhase) -> None:
        """Build the segment's engine in a process of its own."""
        build_in_child(TensorRtOrder("tensorrt", None, order), on_phase)
