"""OpenVINO on the CPU, x86-64 and aarch64: the backend that computes int8 in integers there."""

import io
import platform
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import properties
from openvino.properties import hint

from edge.bundle import tensors as names
from edge.bundle.manifest import SegmentSpec, TensorSpec
from edge.bundle.validation import MAX_EXITS
from edge.decision import softmax_maximum
from edge.engines.base import BuildOrder, DeviceKind, OnPhase
from edge.engines.subprocess_build import TRIAL_LIMIT_S, build_in_subprocess
from edge.engines.tensor_check import EngineTensor, check_tensors, zeros
from edge.errors import EngineError
from edge.system import cpu_identity, usable_cores

CPU = "CPU"
ELEMENT_TYPES = {"f32": "float32", "f16": "float16", "i8": "int8", "i32": "int32"}
"""NumPy's names of OpenVINO's element types."""
OUTPUTS = "cuts, logits and attention maps"
"""Part of an engine's cache key: the outputs that an engine keeps."""


class OpenVino:
    """Compiles segments for this CPU, and runs them."""

    name = "openvino"
    device: DeviceKind = "cpu"

    def __init__(self, threads: int = 1) -> None:
        """Set the threads per segment; 0 uses all cores."""
        self.threads = threads

    def device_key(self) -> dict[str, str]:
        """Return the version of OpenVINO and the processor, which a compiled model depends on."""
        key = {"version": openvino.__version__, "machine": platform.machine(), "cpu": cpu_identity()}
        return key | {"outputs": OUTPUTS}

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
        remove_decision(model)
        if self.order.batch is not None:
            model.reshape({port: _with_batch(port.partial_shape, self.order.batch) for port in model.inputs})
        compiled = _core().compile_model(model, CPU, _properties(threads=1))
        signal.alarm(TRIAL_LIMIT_S)
        compiled.create_infer_request().infer([zeros(tensor) for tensor in _described(compiled.inputs)])
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
        decided = names.decision(spec.exit_index)
        inputs = [tensor for tensor in spec.inputs if tensor.name not in decided]
        outputs = [tensor for tensor in spec.outputs if tensor.name not in decided]
        check_tensors(spec, inputs, _described(model.inputs, inputs), "inputs")
        check_tensors(spec, outputs, _described(model.outputs, outputs), "outputs")
        self._inputs = {tensor.name: model.input(tensor.name) for tensor in inputs}
        self._outputs = {tensor.name: model.output(tensor.name) for tensor in outputs}

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
        # `InferRequest.infer` itself takes 1 to 2 us to look for inputs that were not bound and to wrap the outputs.
        infer = super(openvino.InferRequest, request).infer  # type: ignore[misc]
        nothing = dict[str, Any]()
        decide = _bound_decision(tensors, self._spec.exit_index)

        def run() -> None:
            try:
                infer(nothing, share_outputs=True, decode_strings=False)  # the outputs are in the arrays
            except RuntimeError as error:
                raise self._failure(error) from error
            decide()

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
        return outputs | _decision(outputs, inputs, self._spec.exit_index)

    def _failure(self, error: RuntimeError, remedy: str = "compile the bundle again") -> EngineError:
        return _failure("run", self._spec.file, error, remedy)


def remove_decision(model: openvino.Model) -> None:
    """Remove the inputs and outputs of the decision from a segment.

    OpenVINO takes about 7 us for its five operations, Python 2. Its maximum passes over NaN, too, and its comparison
    with a threshold is true for NaN.

    Raises:
        EngineError: the segment has no logits.
    """
    results = {name: port.node for port in model.outputs for name in port.names}
    parameters = {name: port.node for port in model.inputs for name in port.names}
    exit_index = next((k for k in range(MAX_EXITS) if names.logits(k) in results), None)
    if exit_index is None:
        raise EngineError(f"no output is named {names.logits(0)} or of a later exit, but {', '.join(results)}")
    for name in names.decision(exit_index):
        if name in results:
            model.remove_result(results[name])
        if name in parameters:
            model.remove_parameter(parameters[name])


def _bound_decision(tensors: Mapping[str, NDArray[Any]], exit_index: int) -> Callable[[], None]:
    """Return the decision on bound arrays of one sample, by the rule of `edge.decision`."""
    logits = tensors[names.logits(exit_index)][0]
    confidence, label = tensors[names.confidence(exit_index)], tensors[names.label(exit_index)]
    flag, threshold = tensors.get(names.exit_flag(exit_index)), tensors.get(names.threshold(exit_index))

    def decide() -> None:
        confidence[0] = softmax_maximum(logits)
        label[0] = logits.argmax()
        if flag is not None and threshold is not None:
            flag[0] = confidence[0] >= threshold[0]

    return decide


def _decision(
    outputs: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]], exit_index: int
) -> dict[str, NDArray[Any]]:
    """Return the decision on any number of samples, bit for bit that of `_bound_decision`."""
    logits = outputs[names.logits(exit_index)]
    confidence = np.array([softmax_maximum(sample) for sample in logits], np.float32)
    decided: dict[str, NDArray[Any]] = {names.confidence(exit_index): confidence}
    decided[names.label(exit_index)] = logits.argmax(axis=-1).astype(np.int32)
    if names.threshold(exit_index) in inputs:
        decided[names.exit_flag(exit_index)] = confidence >= inputs[names.threshold(exit_index)]
    return decided


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


def _described(ports: Iterable[openvino.ConstOutput], expected: Iterable[TensorSpec] = ()) -> list[EngineTensor]:
    """Return a model's inputs or outputs, by their expected names where they have them.

    A tensor has several names where OpenVINO has removed an operation that does nothing.
    """
    described, expected_names = [], {tensor.name for tensor in expected}
    for port in ports:
        element_type = port.element_type.get_type_name()
        shape = tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape)
        name = next(iter(port.names & expected_names), port.any_name)
        described.append(EngineTensor(name, ELEMENT_TYPES.get(element_type, element_type), shape))
    return described


def _with_batch(shape: Any, batch: int) -> list[int]:
    """Return a shape whose only symbolic size is the batch."""
    return [batch if size.is_dynamic else size.get_length() for size in shape]


def _failure(
    action: str, file: object, reason: object, remedy: str = "remove the engine from the cache and build it again"
) -> EngineError:
    why = " ".join(str(reason).split())
    return EngineError(f"OpenVINO {openvino.__version__} cannot {action} {file} ({why}); {remedy}")
