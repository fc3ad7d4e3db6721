"""TensorRT: engines for the GPU in this machine."""

from pathlib import Path

import tensorrt as trt

from edge.bundle.manifest import SegmentSpec
from edge.cuda import get_runtime
from edge.cuda.base import Sync
from edge.engines.base import BuildOrder, DeviceKind, OnPhase
from edge.engines.subprocess_build import build_in_subprocess
from edge.engines.tensorrt.builder import OPTIONS, TensorRtBuild
from edge.engines.tensorrt.engine import TensorRtEngine, load_engine


class TensorRt:
    """Builds and runs segments on the GPU in this machine."""

    name = "tensorrt"
    device: DeviceKind = "cuda"

    def __init__(self, gpu_sync: Sync | None = None) -> None:
        """Set how threads wait for the GPU; None for the better one, by timing."""
        self._gpu_sync = gpu_sync

    def device_key(self) -> dict[str, str]:
        """Return the library's version, the build options, the GPU and its driver."""
        return {"version": str(trt.__version__), **OPTIONS, **get_runtime().facts}

    def build(self, order: BuildOrder, on_phase: OnPhase) -> None:
        """Build the segment's engine in a subprocess."""
        build_in_subprocess(TensorRtBuild("tensorrt", None, order), on_phase)

    def load(self, engine: Path, spec: SegmentSpec) -> TensorRtEngine:
        """Load the engine onto the GPU."""
        return load_engine(trt, engine, spec, self._gpu_sync)
