"""ONNX Runtime on the CPU, the default backend."""

import platform
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge.bundle.manifest import SegmentSpec
from edge.engines.base import BuildOrder, DeviceKind, OnPhase
from edge.errors import EngineError
from edge.system import cpu_identity


class OnnxRuntime:
    """Builds segments into graphs optimised for this CPU, and runs them on `threads` threads."""

    name = "onnxruntime"
    device: DeviceKind = "cpu"

    def __init__(self, threads: int = 1) -> None:
        """Set the threads per segment; 0 uses all cores."""
        self.threads = threads

    def device_key(self) -> dict[str, str]:
        """Return the library's version and the processor, on which an optimised graph depends."""
        return {"version": onnxruntime.__version__, "machine": platform.machine(), "cpu": cpu_identity()}

    def build(self, order: BuildOrder, on_phase: OnPhase) -> None:
        """Write the segment's graph, optimised for this processor."""
        options = self._options(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
        if order.batch is not None:
            options.add_free_dimension_override_by_name("batch", order.batch)
        options.optimized_model_filepath = str(order.engine)
        _session(order.segment, options)

    def load(self, engine: Path, spec: SegmentSpec) -> "OnnxRuntimeEngine":
        """Load an optimised graph without optimising it again."""
        options = self._options(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
        return OnnxRuntimeEngine(_session(engine, options), spec)

    def _options(self, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        # Segments run in turn, each on its own threads: threads that spin after a run would slow the next segment.
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
        """Bind arrays to the session; see `edge.engines.base.Engine`."""
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
        """Compute fresh outputs for any batch size; see `edge.engines.base.Engine`."""
        contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            return dict(zip(self._outputs, self.session.run(self._outputs, contiguous), strict=True))
        except Exception as error:  # its exceptions share no narrower base
            why = " ".join(str(error).split())
            raise EngineError(
                f"ONNX Runtime {onnxruntime.__version__} cannot run a segment ({why}); "
                "only engines loaded with batch=None take several images"
            ) from error


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no narrower base
        raise EngineError(f"ONNX Runtime {onnxruntime.__version__} refuses {path}: {error}") from error
