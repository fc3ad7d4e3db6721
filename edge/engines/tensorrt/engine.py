"""Engines of the TensorRT family, loaded onto the GPU and bound to its memory."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from edge.bundle.manifest import SegmentSpec
from edge.cuda import get_runtime
from edge.engines.tensorrt.logger import error_logger
from edge.errors import EngineError

BATCH_HINT = "load the engine with batch=None for several images"


def load_engine(trt: ModuleType, file: Path, spec: SegmentSpec) -> "TensorRtEngine":
    """Load an engine onto the GPU in this machine.

    Raises:
        EngineError: there is no GPU, or the engine was built for another GPU, version or segment.
    """
    with get_runtime().context.activate(f"loading the engine of {spec.file}"):
        return TensorRtEngine(trt, file, spec)


class TensorRtEngine:
    """An engine; each binding owns an execution context."""

    def __init__(self, trt: ModuleType, file: Path, spec: SegmentSpec) -> None:
        """Deserialize an engine; the GPU's context must be current.

        Args:
            trt: The module, `tensorrt` or `tensorrt_rtx`.
            file: The engine.
            spec: The segment it was built from.

        Raises:
            EngineError: the engine was built for another GPU, version or segment.
        """
        self._segment, self._log, self._input_mode = spec.file, error_logger(trt), trt.TensorIOMode.INPUT
        try:
            self._runtime = trt.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        except TypeError:  # pybind11 raises it if the library returns no runtime
            self._engine = None
        if self._engine is None:
            raise EngineError(
                f"{trt.__name__} {trt.__version__} cannot read the engine of {spec.file} ({self._log.last_error}); "
                f"remove {file.parent} and build it again on this machine, or see `edge doctor`"
            )
        self._names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self._check_tensors(trt, spec)

    def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
        """Bind device addresses, batch 1; see `edge.cuda.base.DeviceEngine`.

        Raises:
            EngineError: there is no memory for an execution context, or TensorRT refuses a shape or an address.
        """
        context = self._new_context(addresses)
        for name in self._inputs():
            self._set_shape(context, name, 1)
        return partial(self._enqueue, context)

    def bind_batch(self, addresses: Mapping[str, int]) -> Callable[[int, int], None]:
        """Bind device addresses for batches of any size; see `edge.cuda.base.DeviceEngine`.

        Raises:
            EngineError: as `bind`, or the engine's batch is pinned.
        """
        context = self._new_context(addresses)
        dynamic = [name for name in self._inputs() if min(self._engine.get_tensor_shape(name)) < 0]
        if not dynamic:
            raise EngineError(f"the engine of {self._segment} was built for one image per call; {BATCH_HINT}")

        def enqueue(stream: int, samples: int) -> None:
            for name in dynamic:
                self._set_shape(context, name, samples)
            self._enqueue(context, stream)

        return enqueue

    def _check_tensors(self, trt: ModuleType, spec: SegmentSpec) -> None:
        """Compare names and types with the segment's, for which slots allocate memory."""
        types = {
            trt.DataType.FLOAT: "float32",
            trt.DataType.HALF: "float16",
            trt.DataType.INT8: "int8",
            trt.DataType.INT32: "int32",
            trt.DataType.BOOL: "bool",
        }
        kinds = {name: self._engine.get_tensor_dtype(name) for name in self._names}
        actual = {(name, types.get(kind, kind.name)) for name, kind in kinds.items()}
        expected: set[tuple[str, str]] = {(tensor.name, tensor.dtype) for tensor in (*spec.inputs, *spec.outputs)}
        if actual != expected:
            raise EngineError(
                f"the engine of {spec.file} has {_listed(actual - expected)} where the segment has "
                f"{_listed(expected - actual)}; build it again"
            )

    def _enqueue(self, context: Any, stream: int) -> None:
        if not context.execute_async_v3(stream):
            raise self._error("did not start")

    def _new_context(self, addresses: Mapping[str, int]) -> Any:
        context = self._engine.create_execution_context()  # without a runtime config TensorRT-RTX captures no graphs
        if context is None:
            raise self._error(
                "cannot create an execution context, most likely for lack of memory", "close other programs"
            )
        for name in self._names:
            if not context.set_tensor_address(name, addresses[name]):
                raise self._error(f"does not accept the address of {name}")
        return context

    def _inputs(self) -> list[str]:
        return [name for name in self._names if self._engine.get_tensor_mode(name) == self._input_mode]

    def _set_shape(self, context: Any, name: str, samples: int) -> None:
        shape = tuple(samples if size < 0 else size for size in self._engine.get_tensor_shape(name))
        if not context.set_input_shape(name, shape):
            hint = f"; {BATCH_HINT}" if samples > 1 else ""
            raise self._error(f"does not accept {name} with shape {shape}{hint}")

    def _error(self, failure: str, remedy: str = "see `edge doctor`") -> EngineError:
        return EngineError(f"the engine of {self._segment} {failure}: {self._log.last_error}; {remedy}")


def _listed(tensors: set[tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in sorted(tensors)) or "none"
