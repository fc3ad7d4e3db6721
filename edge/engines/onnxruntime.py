"""ONNX Runtime on the CPU: the engine that is always there."""

import platform
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge.batch import HostBatch
from edge.classifier import Classifier, HostSlot
from edge.errors import EngineError
from edge.machine import cpu_identity
from edge.manifest import SegmentSpec
from edge.protocols import Batch, BuildOrder, Slot


class OnnxRuntime:
    """Builds segments into optimised graphs for this CPU, and runs them on `threads` threads."""

    name = "onnxruntime"

    def __init__(self, threads: int = 1) -> None:
        """Choose the number of threads a segment runs on; 0 leaves it to the library."""
        self.threads = threads

    def device_key(self) -> dict[str, str]:
        """Return what an optimised graph depends on: the library's version and the processor."""
        return {"version": onnxruntime.__version__, "machine": platform.machine(), "cpu": cpu_identity()}

    def build(self, order: BuildOrder, tell: Callable[[str], None]) -> None:
        """Write the segment's graph, optimised for this processor."""
        options = self._options(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
        if order.batch is not None:
            options.add_free_dimension_override_by_name("batch", order.batch)
        options.optimized_model_filepath = str(order.engine)
        _session(order.segment, options)

    def load(self, engine: Path, spec: SegmentSpec) -> "OnnxRuntimeEngine":
        """Open an optimised graph as it is."""
        options = self._options(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
        return OnnxRuntimeEngine(_session(engine, options), spec)

    def make_slot(self, classifier: Classifier) -> Slot:
        """Return a slot in host memory."""
        return HostSlot(classifier)

    def make_batch(self, classifier: Classifier) -> Batch:
        """Return what classifies many images in host memory."""
        return HostBatch(classifier)

    def _options(self, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        # The chain's segments take turns, each with threads of its own: one that spins after its turn robs the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options


class OnnxRuntimeEngine:
    """A segment in an ONNX Runtime session."""

    def __init__(self, session: onnxruntime.InferenceSession, spec: SegmentSpec) -> None:
        """Wrap an open session."""
        self.session = session
        self._inputs = [tensor.name for tensor in spec.inputs]
        self._outputs = [tensor.name for tensor in spec.outputs]

    def bind(self, tensors: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """Tie arrays to the session; see `edge.protocols.Engine`."""
        return partial(self.session.run_with_iobinding, self.io_binding(tensors))

    def io_binding(self, tensors: Mapping[str, NDArray[Any]]) -> onnxruntime.IOBinding:
        """Return ONNX Runtime's own binding of the session's inputs and outputs to arrays, without copies."""
        binding = self.session.io_binding()
        for name in self._inputs:
            array = tensors[name]
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name in self._outputs:
            array = tensors[name]
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute fresh outputs for any batch size; see `edge.protocols.Engine`."""
        contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            return dict(zip(self._outputs, self.session.run(self._outputs, contiguous), strict=True))
        except Exception as error:  # its exceptions share no narrower base
            why = " ".join(str(error).split())
            raise EngineError(
                f"ONNX Runtime {onnxruntime.__version__} does not run a segment ({why}); engines take many images "
                "where they are loaded with batch=None"
            ) from error


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no narrower base
        raise EngineError(f"ONNX Runtime {onnxruntime.__version__} refuses {path}: {error}") from error
