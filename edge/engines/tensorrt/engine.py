"""Built segments of the TensorRT family, made runnable on the GPU."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from edge.bundle.manifest import SegmentSpec
from edge.cuda import get_runtime
from edge.engines.base import DeviceKind
from edge.engines.tensorrt.logger import logger_of
from edge.errors import EngineError

ANY_NUMBER = "engines take many images where they are loaded with batch=None"


class RunsOnTheGpu:
    """What TensorRT and TensorRT for RTX have in common: engines are read onto the GPU, where their slots are, too."""

    library: ModuleType
    device: DeviceKind = "cuda"

    def load(self, engine: Path, spec: SegmentSpec) -> "TensorRtEngine":
        """Read the engine onto the GPU in this machine."""
        with get_runtime().context.activate(f"loading the engine of {spec.file}"):
            return TensorRtEngine(self.library, engine, spec.file)


class TensorRtEngine:
    """An engine; each binding has an execution context of its own, made once."""

    def __init__(self, trt: ModuleType, file: Path, what: str) -> None:
        """Read a built engine; the GPU's context must be current.

        Args:
            trt: TensorRT's module.
            file: The engine.
            what: The segment it was built from, for messages.

        Raises:
            EngineError: it was built for another GPU or version.
        """
        self._what, self._log, self._input = what, logger_of(trt), trt.TensorIOMode.INPUT
        try:
            self._runtime = trt.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        except TypeError:  # what pybind11 makes of a runtime the library does not hand out
            self._engine = None
        if self._engine is None:
            raise EngineError(
                f"{trt.__name__} {trt.__version__} cannot read the engine of {what} ({self._log.last_error}); "
                f"remove {file.parent} and build it again on this machine, or see `edge doctor`"
            )

    def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
        """Tie addresses to the segment's tensors, batch 1, in an execution context of its own.

        Raises:
            EngineError: there is no room for one, or TensorRT refuses a shape or an address.
        """
        context = self._context(addresses)
        for name in self._inputs():
            self._set_shape(context, name, 1)
        return partial(self._start, context)

    def bind_batch(self, addresses: Mapping[str, int]) -> Callable[[int, int], None]:
        """Do the same for as many images as are asked for at each call."""
        context = self._context(addresses)
        names = [name for name in self._inputs() if min(self._engine.get_tensor_shape(name)) < 0]
        if not names:
            raise EngineError(f"the engine of {self._what} takes one image only; {ANY_NUMBER}")

        def enqueue(stream: int, images: int) -> None:
            for name in names:
                self._set_shape(context, name, images)
            self._start(context, stream)

        return enqueue

    def _start(self, context: Any, stream: int) -> None:
        if not context.execute_async_v3(stream):
            raise self._refused("did not start")

    def _context(self, addresses: Mapping[str, int]) -> Any:
        engine = self._engine
        context = engine.create_execution_context()  # TensorRT-RTX then captures no graphs of its own within ours
        if context is None:
            raise self._refused("gives no execution context, most likely for lack of memory")
        for name in [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]:
            if name not in addresses:
                raise EngineError(
                    f"the engine of {self._what} has a tensor {name} that the bundle does not know; build it again"
                )
            if not context.set_tensor_address(name, addresses[name]):
                raise self._refused(f"does not take the memory of {name}")
        return context

    def _inputs(self) -> list[str]:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [name for name in names if engine.get_tensor_mode(name) == self._input]

    def _set_shape(self, context: Any, name: str, images: int) -> None:
        shape = tuple(images if size < 0 else size for size in self._engine.get_tensor_shape(name))
        if not context.set_input_shape(name, shape):
            hint = f"; {ANY_NUMBER}" if images > 1 else ""
            raise self._refused(f"does not take {name} with shape {shape}{hint}")

    def _refused(self, what: str) -> EngineError:
        return EngineError(f"the engine of {self._what} {what}: {self._log.last_error}; see `edge doctor`")
