"""TensorRT for RTX: engines for RTX GPUs, which a machine without a GPU can build too."""

import re
from collections.abc import Callable
from pathlib import Path

import tensorrt_rtx as trt

from edge.classifier import Classifier
from edge.cuda import opened
from edge.engines.child import build_in_child
from edge.engines.tensorrt_builder import FREE_BATCH, OPTIONS, TensorRtOrder
from edge.engines.tensorrt_engine import TensorRtEngine
from edge.errors import EngineError
from edge.manifest import SegmentSpec
from edge.protocols import Batch, BuildOrder, Slot

ANY_TARGET = "ampere and later"


class TensorRtRtx:
    """Builds segments for a compute capability, and runs them where there is such a GPU."""

    name = "tensorrt-rtx"

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

    def build(self, order: BuildOrder, tell: Callable[[str], None]) -> None:
        """Build the segment's engine in a process of its own."""
        build_in_child(TensorRtOrder("tensorrt_rtx", self._target, order), tell)

    def load(self, engine: Path, spec: SegmentSpec) -> TensorRtEngine:
        """Read the engine onto the GPU in this machine."""
        with opened().context.calling(f"loading the engine of {spec.file}"):
            return TensorRtEngine(trt, engine, spec.file)

    def make_slot(self, classifier: Classifier) -> Slot:
        """Return a slot on the GPU."""
        from edge.cuda.slot import CudaSlot

        return CudaSlot(classifier, opened())

    def make_batch(self, classifier: Classifier) -> Batch:
        """Return what classifies many images on the GPU."""
        from edge.cuda.batch import CudaBatch

        return CudaBatch(classifier, opened(), FREE_BATCH[-1])


def _known(target: str) -> str:
    name = target.upper().replace("_", "")
    known = [name for name in trt.ComputeCapability.__members__ if re.fullmatch(r"SM\d+", name)]
    if name not in known:
        raise EngineError(
            f"TensorRT-RTX {trt.__version__} does not build for {target!r}; it builds for {', '.join(known).lower()}"
        )
    return name
