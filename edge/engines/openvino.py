"""OpenVINO on the CPU, x86-64 and aarch64: the backend that computes int8 in integers there."""

import io
import platform
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import properties
from openvino.properties import hint

from edge.bundle import tensors as names
from edge.bundle.manifest import SegmentSpec, TensorSpec
from edge.decision import scores_from_logits
from edge.engines.base import BuildOrder, DeviceKind, OnPhase
from edge.engines.subprocess_build import TRIAL_LIMIT_S, build_in_subprocess
from edge.errors import EngineError
from edge.system import cpu_identity, usable_cores

CPU = "CPU"
DTYPES = {"f32": "float32", "f16": "float16", "i8": "int8", "i32": "int32", "boolean": "bool"}
"""NumPy's names of OpenVINO's element types."""


class OpenVino:
    """Compiles segments for this CPU, and runs them."""

    name = "openvino"
    device: DeviceKind = "cpu"

    def __init__(self, threads: int = 1) -> None:
        """Set the threads per segment; 0 uses all cores."""
        self.threads = threads

    def device_key(self) -> dict[str, str]:
        """Return the version of OpenVINO and the processor, which a compiled model depends on."""
        return {"version": openvino.__version__, "machine": platform.machine(), "cpu": cpu_identity()}

    def build(self, order: BuildOrder, on_phase: OnPhase) -> None:
        """Write the segment's compiled model in a subprocess."""
        build_in_subprocess(OpenVinoBuild(order), on_phase)

    def load(self, engine: Path, spec: SegmentSpec) -> "OpenVinoEngine":
        """Import a compiled model."""
        try:
            model = _core().import_model(engine.read_bytes(), CPU, _properties(self.threads))
        except RuntimeError as error:
            raise _failure("import the engine of", spec.file, error) from error
        return OpenVinoEngine(model, spec)


@dataclass(frozen=True, slots=True)
class OpenVinoBuild:
    """A build order for OpenVINO; see `edge.engines.subprocess_build.Build`."""

    order: BuildOrder
    library = "openvino"

    @property
    def description(self) -> str:
        """The segment."""
        return str(self.order.segment)

    def run(self, on_phase: OnPhase) -> None:
        """Compile the segment, and run the result once on zeros, so that a crash happens in this process."""
        model = _core().read_model(self.order.segment.read_bytes())
        if self.order.batch is not None:
            model.reshape({port: _with_batch(port.partial_shape, self.order.batch) for port in model.inputs})
        compiled = _core().compile_model(model, CPU, _properties(threads=1))
        signal.alarm(TRIAL_LIMIT_S)
        compiled.create_infer_request().infer([_zeros(port) for port in compiled.inputs])
        signal.alarm(0)
        blob = io.BytesIO()
        compiled.export_model(blob)
        self.order.engine.write_bytes(blob.getbuffer())

    def failure(self, reason: str) -> EngineError:
        """Return the error for an exception of the library."""
        return _failure("run", self.order.segment, reason, "compile the bundle again, or use another precision")


class OpenVinoEngine:
    """A segment as a compiled model."""

    def __init__(self, model: openvino.CompiledModel, spec: SegmentSpec) -> None:
        """Wrap a compiled model.

        Raises:
            EngineError: the model has other inputs or outputs than the segment.
        """
        self._model, self._spec = model, spec
        self._inputs = _ports_of(spec, spec.inputs, model.inputs, "inputs")
        self._outputs = _ports_of(spec, spec.outputs, model.outputs, "outputs")

    def bind(self, tensors: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """Bind arrays to an inference request, without copies; see `edge.engines.base.Engine`.

        Raises:
            EngineError: an array does not fit. The result raises it if the segment cannot be run.
        """
        request = self._model.create_infer_request()
        try:
            for name, port in (self._inputs | self._outputs).items():
                request.set_tensor(port, openvino.Tensor(tensors[name], shared_memory=True))
        except RuntimeError as error:
            raise self._failure(error) from error
        infer, maximum, exit_index = request.infer, np.maximum.reduce, self._spec.exit_index
        logits = tensors[names.logits(exit_index)][0]

        def run() -> None:
            try:
                infer(share_outputs=True)  # the outputs are in the arrays; without this, they are copied once more
            except RuntimeError as error:
                raise self._failure(error) from error
            if not isfinite(maximum(logits)):
                _decide_where_not_finite(tensors, exit_index)

        return run

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute fresh outputs for any batch size; see `edge.engines.base.Engine`."""
        request = self._model.create_infer_request()
        try:
            for name, port in self._inputs.items():
                request.set_tensor(port, openvino.Tensor(np.ascontiguousarray(inputs[name]), shared_memory=True))
            computed = request.infer()
        except RuntimeError as error:
            raise self._failure(error, "load the engine with batch=None for several images") from error
        outputs = {name: computed[port] for name, port in self._outputs.items()}
        _decide_where_not_finite({**inputs, **outputs}, self._spec.exit_index)
        return outputs

    def _failure(self, error: RuntimeError, remedy: str = "compile the bundle again") -> EngineError:
        return _failure("run", self._spec.file, error, remedy)


def _decide_where_not_finite(tensors: Mapping[str, NDArray[Any]], exit_index: int) -> None:
    """Decide again, by `edge.decision`, for samples whose highest logit is NaN or infinite.

    OpenVINO's maximum passes over NaN, and its comparison with a threshold is true for NaN.
    """
    logits = tensors[names.logits(exit_index)]
    damaged = ~np.isfinite(logits.max(axis=-1))
    if not damaged.any():
        return
    confidence, label = scores_from_logits(logits[damaged])
    tensors[names.confidence(exit_index)][damaged] = confidence
    tensors[names.label(exit_index)][damaged] = label
    if names.exit_flag(exit_index) in tensors:
        tensors[names.exit_flag(exit_index)][damaged] = confidence >= tensors[names.threshold(exit_index)]


@cache
def _core() -> openvino.Core:
    return openvino.Core()


def _properties(threads: int) -> dict[Any, Any]:
    """Return the properties of a compiled model.

    With one stream, inference runs in the calling thread: with several, passing it on took twice as long as the
    smallest segments. Calls of one segment at the same time wait for one another. Threads are not pinned to cores,
    since every segment has its own. Floats stay float32, also on processors with bfloat16.
    """
    return {
        hint.performance_mode: hint.PerformanceMode.LATENCY,
        hint.inference_precision: openvino.Type.f32,
        hint.enable_cpu_pinning: False,
        properties.num_streams: 1,
        properties.inference_num_threads: threads or usable_cores(),
    }


def _ports_of(
    spec: SegmentSpec, expected: Sequence[TensorSpec], ports: Sequence[Any], kind: str
) -> dict[str, openvino.ConstOutput]:
    """Return the ports of tensors by name.

    Raises:
        EngineError: the model has other inputs or outputs than the manifest describes.
    """
    named = {name: port for port in ports for name in port.names}
    if len(ports) == len(expected) and all(t.name in named and _fits(t, named[t.name]) for t in expected):
        return {tensor.name: named[tensor.name] for tensor in expected}
    has = ", ".join(f"{port.any_name} {port.element_type.get_type_name()} {port.partial_shape}" for port in ports)
    required = ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}" for tensor in expected)
    raise EngineError(
        f"{spec.file} is not the segment that its manifest describes: it has the {kind} {has}, expected {required}; "
        "compile the bundle again"
    )


def _fits(spec: TensorSpec, port: Any) -> bool:
    if DTYPES.get(port.element_type.get_type_name()) != spec.dtype or len(port.partial_shape) != len(spec.shape):
        return False
    sizes = zip(port.partial_shape, spec.shape, strict=True)
    return all(size.is_dynamic or required in (None, size.get_length()) for size, required in sizes)


def _with_batch(shape: Any, batch: int) -> list[int]:
    """Return a shape whose only symbolic size is the batch."""
    return [batch if size.is_dynamic else size.get_length() for size in shape]


def _zeros(port: Any) -> NDArray[Any]:
    """Return zeros for an input, batch 1."""
    dtype = DTYPES.get(port.element_type.get_type_name())
    if dtype is None:
        raise EngineError(f"input {port.any_name} is of type {port.element_type}, expected {', '.join(DTYPES)}")
    return np.zeros(_with_batch(port.partial_shape, 1), dtype=dtype)


def _failure(
    action: str, file: object, reason: object, remedy: str = "remove the engine from the cache and build it again"
) -> EngineError:
    why = " ".join(str(reason).split())
    return EngineError(f"OpenVINO {openvino.__version__} cannot {action} {file} ({why}); {remedy}")
