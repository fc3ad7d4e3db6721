"""TensorRT for RTX: engines for RTX GPUs, which a machine without a GPU can build too."""

import re
from pathlib import Path

import tensorrt_rtx as trt

from edge.bundle.manifest import SegmentSpec
from edge.cuda.base import Sync
from edge.engines.base import BuildOrder, DeviceKind, OnPhase
from edge.engines.subprocess_build import build_in_subprocess
from edge.engines.tensorrt.builder import OPTIONS, TensorRtBuild
from edge.engines.tensorrt.engine import TensorRtEngine, load_engine
from edge.errors import EngineError

DEFAULT_TARGET = "ampere and later"


class TensorRtRtx:
    """Builds segments for a compute capability, and runs them on a GPU that has it."""

    name = "tensorrt-rtx"
    device: DeviceKind = "cuda"

    def __init__(self, target: str | None = None, gpu_sync: Sync | None = None) -> None:
        """Set the GPU to build for, and how threads wait for the GPU.

        Args:
            target: A compute capability, such as `sm89`; None builds for Ampere and all later RTX GPUs.
            gpu_sync: How threads wait; None for the better one, by timing.

        Raises:
            EngineError: this version does not build for that GPU.
        """
        self._target, self._gpu_sync = _compute_capability(target) if target else None, gpu_sync

    def device_key(self) -> dict[str, str]:
        """Return the library's version, the build options and the GPUs to build for."""
        target = (self._target or DEFAULT_TARGET).lower()
        return {"version": str(trt.__version__), "target": target, **OPTIONS}

    def build(self, order: BuildOrder, on_phase: OnPhase) -> None:
        """Build the segment's engine in a subprocess."""
        build_in_subprocess(TensorRtBuild("tensorrt_rtx", self._target, order), on_phase)

    def load(self, engine: Path, spec: SegmentSpec) -> TensorRtEngine:
        """Load the engine onto the GPU in this machine."""
        return load_engine(trt, engine, spec, self._gpu_sync)


def _compute_capability(target: str) -> str:
    """Return the library's name of a compute capability."""
    name = target.upper().replace("_", "")
    supported = [member for member in trt.ComputeCapability.__members__ if re.fullmatch(r"SM\d+", member)]
    if name not in supported:
        raise EngineError(
            f"TensorRT-RTX {trt.__version__} does not build for {target!r}; choose one of "
            f"{', '.join(supported).lower()}"
        )
    return name
