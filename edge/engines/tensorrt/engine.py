"""Engines of the TensorRT family, loaded onto the GPU and bound to its memory."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from edge.bundle.manifest import SegmentSpec
from edge.cuda import get_runtime
from edge.cuda.base import ACTIVATIONS, Sync, decision_tensors, retire
from edge.engines.tensorrt.contexts import context_factory
from edge.engines.tensorrt.logger import error_logger
from edge.errors import EngineError

BATCH_HINT = "load the engine with batch=None for several images"


def load_engine(trt: ModuleType, file: Path, spec: SegmentSpec, sync: Sync | None) -> "TensorRtEngine":
    """Load an engine onto the GPU in this machine.

    Raises:
        EngineError: there is no GPU, or the engine was built for another GPU, version or segment.
    """
    with get_runtime().prepare(f"loading the engine of {spec.file}"):
        return TensorRtEngine(trt, file, spec, sync)


class TensorRtEngine:
    """An engine; each binding owns an execution context.

    Attributes:
        activation_bytes: Memory for intermediate tensors that each binding needs while it runs.
        sync: How threads wait for the chain; see `edge.cuda.base.DeviceEngine`.
    """

    def __init__(self, trt: ModuleType, file: Path, spec: SegmentSpec, sync: Sync | None = None) -> None:
        """Deserialize an engine; the GPU's context must be current.

        Args:
            trt: The module, `tensorrt` or `tensorrt_rtx`.
            file: The engine.
            spec: The segment it was built from.
            sync: How threads wait for the chain that it begins; None for the better one, by timing.

        Raises:
            EngineError: the engine was built for another GPU, version or segment.
        """
        self.sync = sync
        self._segment, self._log, self._retire = spec.file, error_logger(trt), retire
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
        inputs = [name for name in self._names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._dynamic = [name for name in inputs if min(self._engine.get_tensor_shape(name)) < 0]
        self.activation_bytes = int(self._engine.device_memory_size_v2)
        self._create_context: Any = context_factory(trt, self._engine, file)

    def __del__(self) -> None:
        """Free the engine while no other thread prepares: that may synchronise the GPU, which spoils a capture."""
        self._retire(*(self.__dict__.pop(name, None) for name in ("_create_context", "_engine", "_runtime")))

    def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
        """Bind device addresses, batch 1; see `edge.cuda.base.DeviceEngine`.

        Raises:
            EngineError: there is no memory for an execution context, or TensorRT refuses a shape or an address.
        """
        context = self._new_context(addresses)
        for name in self._dynamic:
            self._set_shape(context, name, 1)
        return partial(self._enqueue, context)

    def bind_batch(self, addresses: Mapping[str, int]) -> Callable[[int, int], None]:
        """Bind device addresses for batches of any size; see `edge.cuda.base.DeviceEngine`.

        Raises:
            EngineError: as `bind`, or the engine's batch is pinned.
        """
        context = self._new_context(addresses)
        if not self._dynamic:
            raise EngineError(f"the engine of {self._segment} was built for one image per call; {BATCH_HINT}")

        def enqueue(stream: int, samples: int) -> None:
            for name in self._dynamic:
                self._set_shape(context, name, samples)
            self._enqueue(context, stream)

        return enqueue

    def _check_tensors(self, trt: ModuleType, spec: SegmentSpec) -> None:
        """Compare names, types, sizes and formats with the segment's, for which slots allocate memory."""
        specs = (*spec.inputs, *spec.outputs)
        allowed = {tensor.name: _shown(tensor.name, tensor.dtype, tensor.sample_shape) for tensor in specs}
        required = {allowed[name] for name in allowed.keys() - decision_tensors(spec.exit_index)}
        actual = {self._shown(trt, name) for name in self._names}
        if wrong := [*(actual - {*allowed.values()}), *(required - actual)]:
            raise EngineError(
                f"the engine of {spec.file} has {_listed(actual.intersection(wrong))} where the segment has "
                f"{_listed(required.intersection(wrong))}; build it again"
            )

    def _shown(self, trt: ModuleType, name: str) -> str:
        """Describe a tensor of the engine as the segment's are described; a format other than linear stands out."""
        types = {
            trt.DataType.FLOAT: "float32",
            trt.DataType.HALF: "float16",
            trt.DataType.INT8: "int8",
            trt.DataType.INT32: "int32",
            trt.DataType.BOOL: "bool",
        }
        dtype, layout = self._engine.get_tensor_dtype(name), self._engine.get_tensor_format(name)
        sample_shape = [abs(size) for size in self._engine.get_tensor_shape(name)]  # -1 is the batch
        suffix = "" if layout == trt.TensorFormat.LINEAR else f" in format {layout.name}"
        return _shown(name, types.get(dtype, dtype.name), sample_shape) + suffix

    def _enqueue(self, context: Any, stream: int) -> None:
        if not context.execute_async_v3(stream):
            raise self._error("did not start")

    def _new_context(self, addresses: Mapping[str, int]) -> Any:
        context = self._create_context()
        if context is None:
            raise self._error(
                "cannot create an execution context, most likely for lack of memory", "close other programs"
            )
        context.set_device_memory(addresses[ACTIVATIONS], self.activation_bytes)
        for name in self._names:
            if not context.set_tensor_address(name, addresses[name]):
                raise self._error(f"does not accept the address of {name}")
        return context

    def _set_shape(self, context: Any, name: str, samples: int) -> None:
        shape = tuple(samples if size < 0 else size for size in self._engine.get_tensor_shape(name))
        if not context.set_input_shape(name, shape):
            hint = f"; {BATCH_HINT}" if samples > 1 else ""
            raise self._error(f"does not accept {name} with shape {shape}{hint}")

    def _error(self, failure: str, remedy: str = "see `edge doctor`") -> EngineError:
        return EngineError(f"the engine of {self._segment} {failure}: {self._log.last_error}; {remedy}")


def _shown(name: str, dtype: str, sample_shape: Sequence[int]) -> str:
    return f"{name} ({dtype} {'x'.join(map(str, sample_shape))})"


def _listed(tensors: set[str]) -> str:
    return ", ".join(sorted(tensors)) or "none"
