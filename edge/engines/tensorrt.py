"""TensorRT: engines for the GPU in this machine."""

from collections.abc import Callable

import tensorrt as trt

from edge.cuda.device import device_facts
from edge.engines.child import build_in_child
from edge.engines.tensorrt_builder import OPTIONS, TensorRtOrder
from edge.engines.tensorrt_engine import RunsOnTheGpu
from edge.protocols import BuildOrder


class TensorRt(RunsOnTheGpu):
    """Builds and runs segments on the GPU in this machine."""

    name = "tensorrt"
    library = trt

    def device_key(self) -> dict[str, str]:
        """Return what an engine depends on: the library's version, the GPU and its driver, our options."""
        return {"version": str(trt.__version__), **OPTIONS, **device_facts()}

    def build(self, order: BuildOrder, tell: Callable[[str], None]) -> None:
        """Build the segment's engine in a process of its own."""
        build_in_child(TensorRtOrder("tensorrt", None, order), tell)
