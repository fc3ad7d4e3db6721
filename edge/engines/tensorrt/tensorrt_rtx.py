"""TensorRT for RTX: engines for RTX GPUs, which a machine without a GPU can build too."""

import re

import tensorrt_rtx as trt

from edge.engines.base import BuildOrder, OnPhase
from edge.engines.tensorrt.builder import OPTIONS, TensorRtOrder
from edge.engines.tensorrt.engine import RunsOnTheGpu
from edge.engines.tensorrt.subprocess_build import build_in_child
from edge.errors import EngineError

ANY_TARGET = "ampere and later"


class TensorRtRtx(RunsOnTheGpu):
    """Builds segments for a compute capability, and runs them where there is such a GPU."""

    name = "tensorrt-rtx"
    library = trt

    def __init__(self, target: str | None = None) -> None:
        """Choose the GPU to build for, such as `sm89`; None builds for all RTX GPUs from Ampere on.

        Raises:
            EngineError: this version does not build for that GPU.
        """
        self._target = _known(target) if target else None

    def device_key(self) -> dict[str, str]:
        """Return what an engine depends on: the library's version, the GPUs it is for, our options."""
        target = (self._target or ANY_TARGET).lower()
        return {"version": str(trt.__version__), "target": target, **OPTIONS}

    def build(self, order: BuildOrder, on_phase: OnPhase) -> None:
        """Build the segment's engine in a process of its own."""
        build_in_child(TensorRtOrder("tensorrt_rtx", self._target, order), on_phase)


def _known(target: str) -> str:
    name = target.upper().replace("_", "")
    known = [name for name in trt.ComputeCapability.__members__ if re.fullmatch(r"SM\d+", name)]
    if name not in known:
        raise EngineError(
            f"TensorRT-RTX {trt.__version__} does not build for {target!r}; it builds for {', '.join(known).lower()}"
        )
    return name
