"""TensorRT: engines for the GPU in this machine."""

from collections.abc import Callable
from pathlib import Path

import tensorrt as trt

from edge.classifier import Classifier
from edge.cuda import opened
from edge.cuda.device import device_facts
from edge.engines.child import build_in_child
from edge.engines.tensorrt_builder import FREE_BATCH, OPTIONS, TensorRtOrder
from edge.engines.tensorrt_engine import TensorRtEngine
from edge.manifest import SegmentSpec
from edge.protocols import Batch, BuildOrder, Slot


class TensorRt:
    """Builds and runs segments on the GPU in this machine."""

    name = "tensorrt"

    def device_key(self) -> dict[str, str]:
        """Return what an engine depends on: the library's version, the GPU and its driver, our options."""
        return {"version": str(trt.__version__), **OPTIONS, **device_facts()}

    def build(self, order: BuildOrder, tell: Callable[[str], None]) -> None:
        """Build the segment's engine in a process of its own."""
        build_in_child(TensorRtOrder("tensorrt", None, order), tell)

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
