"""ONNX Runtime on the CPU, the default backend."""

import math
import platform
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge.bundle import tensors as names
from edge.bundle.manifest import SegmentSpec
from edge.engines.base import BuildOrder, DeviceKind, OnPhase
from edge.engines.subprocess_build import TRIAL_LIMIT_S, build_in_subprocess
from edge.engines.tensor_check import EngineTensor, check_tensors, zeros
from edge.errors import EngineError
from edge.storage import open_regular
from edge.system import cpu_identity

ELEMENT_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}
"""NumPy's names of ONNX Runtime's element types."""


class OnnxRuntime:
    """Builds segments into graphs optimised for this CPU, and runs them."""

    name = "onnxruntime"
    device: DeviceKind = "cpu"

    def __init__(self, threads: int = 1) -> None:
        """Set the threads per segment; 0 uses all cores."""
        self.threads = threads

    def device_key(self) -> dict[str, str]:
        """Return the version of ONNX Runtime and the processor, which an optimised graph depends on."""
        return {"version": onnxruntime.__version__, "machine": platform.machine(), "cpu": cpu_identity()}

    def build(self, order: BuildOrder, on_phase: OnPhase) -> None:
        """Write the segment's graph, optimised for this processor, in a subprocess."""
        build_in_subprocess(OnnxRuntimeBuild(order), on_phase)

    def load(self, engine: Path, spec: SegmentSpec) -> "OnnxRuntimeEngine":
        """Load an optimised graph without optimising it again."""
        return OnnxRuntimeEngine(_session(engine, _engine_options(self.threads)), spec)


@dataclass(frozen=True, slots=True)
class OnnxRuntimeBuild:
    """A build order for ONNX Runtime; see `edge.engines.subprocess_build.Build`."""

    order: BuildOrder
    library = "onnxruntime"

    @property
    def description(self) -> str:
        """The segment."""
        return str(self.order.segment)

    def run(self, on_phase: OnPhase) -> None:
        """Optimise the segment, and run the result once on zeros, so that a crash happens in this process."""
        options = _options(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, threads=1)
        if self.order.batch is not None:
            options.add_free_dimension_override_by_name("batch", self.order.batch)
        options.optimized_model_filepath = _utf8(self.order.engine)
        try:
            _session(self.order.segment, options)
        except EngineError:
            _check_space(self.order)
            raise
        session = _session(self.order.engine, _engine_options(threads=1), name=self.order.segment)
        signal.alarm(TRIAL_LIMIT_S)
        session.run(None, {tensor.name: zeros(tensor) for tensor in _described(session.get_inputs())})
        signal.alarm(0)

    def failure(self, reason: str) -> EngineError:
        """Return the error for an exception of the library."""
        return EngineError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run {self.order.segment} ({reason}); "
            "compile the bundle again, or use another precision"
        )


class OnnxRuntimeEngine:
    """A segment in an ONNX Runtime session."""

    def __init__(self, session: onnxruntime.InferenceSession, spec: SegmentSpec) -> None:
        """Wrap an open session.

        Raises:
            EngineError: the session has other inputs or outputs than the segment.
        """
        self.session = session
        self._spec = spec
        self._inputs = [tensor.name for tensor in spec.inputs]
        self._outputs = [tensor.name for tensor in spec.outputs]
        check_tensors(spec, spec.inputs, _described(session.get_inputs()), "inputs")
        check_tensors(spec, spec.outputs, _described(session.get_outputs()), "outputs")

    def bind(self, tensors: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """Bind arrays to the session; see `edge.engines.base.Engine`.

        Raises:
            EngineError: an array does not fit. The result raises it if the segment cannot be run.
        """
        try:
            binding = self.io_binding(tensors)
        except Exception as error:  # its exceptions share no narrower base
            raise self._failure(error) from error
        run_bound, confidence = self.session.run_with_iobinding, tensors[names.confidence(self._spec.exit_index)]

        def run() -> None:
            try:
                run_bound(binding)
            except Exception as error:
                raise self._failure(error) from error
            if math.isnan(confidence.item()):
                self._correct_labels(tensors)

        return run

    def io_binding(self, tensors: Mapping[str, NDArray[Any]]) -> onnxruntime.IOBinding:
        """Return an `IOBinding` of the session's inputs and outputs to arrays, without copies."""
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
            arrays = self.session.run(self._outputs, contiguous)
        except Exception as error:  # its exceptions share no narrower base
            raise self._failure(error, "; load the engine with batch=None for several images") from error
        batch = len(contiguous[self._inputs[0]])
        for tensor, array in zip(self._spec.outputs, arrays, strict=True):
            expected = tuple(batch if size is None else size for size in tensor.shape)
            if array.shape != expected:
                raise self._failure(f"{tensor.name} has shape {array.shape}, expected {expected}")
        outputs = dict(zip(self._outputs, arrays, strict=True))
        self._correct_labels(outputs)
        return outputs

    def _correct_labels(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Set the labels of samples with NaN by the rule of `edge.decision`; ONNX Runtime's ArgMax passes over NaN."""
        exit_index = self._spec.exit_index
        is_nan = np.isnan(tensors[names.confidence(exit_index)])
        tensors[names.label(exit_index)][is_nan] = tensors[names.logits(exit_index)][is_nan].argmax(axis=-1)

    def _failure(self, reason: object, hint: str = "; compile the bundle again") -> EngineError:
        why = " ".join(str(reason).split())
        return EngineError(f"ONNX Runtime {onnxruntime.__version__} cannot run {self._spec.file} ({why}){hint}")


def _options(level: onnxruntime.GraphOptimizationLevel, threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised, too
    # Each segment has its own threads: threads that spin after a run would slow down the next segment.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _engine_options(threads: int) -> onnxruntime.SessionOptions:
    return _options(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, threads)


def _session(path: Path, options: onnxruntime.SessionOptions, name: Path | None = None) -> onnxruntime.InferenceSession:
    file = _utf8(path)
    try:
        open_regular(path).close()  # ONNX Runtime reports a missing permission as a damaged file
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no narrower base
        why = " ".join(str(error).split())
        raise EngineError(f"ONNX Runtime {onnxruntime.__version__} refuses {name or path}: {why}") from error


def _utf8(path: Path) -> str:
    """Return a path as text for ONNX Runtime.

    Raises:
        EngineError: the path is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise EngineError(
            f"the path {path} is not UTF-8, which ONNX Runtime cannot open; rename the folder, or set EDGE_CACHE "
            "to another one where it is the engine cache"
        ) from error
    return str(path)


def _described(tensors: Sequence[Any]) -> list[EngineTensor]:
    """Return a session's inputs or outputs; a symbolic size is a string."""
    return [
        EngineTensor(
            tensor.name,
            ELEMENT_TYPES.get(tensor.type, tensor.type),
            tuple(size if isinstance(size, int) else None for size in tensor.shape),
        )
        for tensor in tensors
    ]


def _check_space(order: BuildOrder) -> None:
    """Check that an engine can be written, since ONNX Runtime does not report it.

    Raises:
        OSError: a file of the segment's size cannot be written.
    """
    trial = order.engine.with_name("trial")
    try:
        trial.write_bytes(bytes(order.segment.stat().st_size))
    finally:
        trial.unlink(missing_ok=True)
