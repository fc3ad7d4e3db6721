"""TensorRT: engines for the GPU in this machine."""

from collections.abc import Callable
from pathlib import Path

import tensorrt as trt

from edge.cuda.device import device_facts
from edge.engines.child import build_in_child
from edge.engines.tensorrt_builder import OPTIONS, TensorRtOrder
from edge.errors import EngineError
from edge.manifest import SegmentSpec
from edge.protocols import BuildOrder, Engine


class TensorRt:
    """Builds segments for the GPU in this machine; running them waits for the CUDA runtime."""

    name = "tensorrt"

    def device_key(self) -> dict[str, str]:
        """Return what an engine depends on: the library's version, the GPU and its driver, our options."""
        return {"version": str(trt.__version__), **OPTIONS, **device_facts()}

    def build(self, order: BuildOrder, tell: Callable[[str], None]) -> None:
        """Build the segment's engine in a process of its own."""
        build_in_child(TensorRtOrder("tensorrt", None, order), tell)

    def load(self, engine: Path, spec: SegmentSpec) -> Engine:
        """Refuse: there is no CUDA runtime to run it with yet."""
        raise EngineError(f"{spec.file} is built for TensorRT, which runs nothing yet; run with --backend onnxruntime")
