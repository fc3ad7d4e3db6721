"""A built segment of the TensorRT family, made runnable on the GPU."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from edge.engines.tensorrt_log import logger_of
from edge.errors import EngineError


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
        engine = self._engine
        context = engine.create_execution_context()  # TensorRT-RTX then captures no graphs of its own within ours
        if context is None:
            raise self._refused("gives no execution context, most likely for lack of memory")
        for name in [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]:
            shape = tuple(1 if size < 0 else size for size in engine.get_tensor_shape(name))
            if engine.get_tensor_mode(name) == self._input and not context.set_input_shape(name, shape):
                raise self._refused(f"does not take {name} with shape {shape}")
            if name not in addresses:
                raise EngineError(
                    f"the engine of {self._what} has a tensor {name} that the bundle does not know; build it again"
                )
            if not context.set_tensor_address(name, addresses[name]):
                raise self._refused(f"does not take the memory of {name}")

        def enqueue(stream: int) -> None:
            if not context.execute_async_v3(stream):
                raise self._refused("did not start")

        return enqueue

    def _refused(self, what: str) -> EngineError:
        return EngineError(f"the engine of {self._what} {what}: {self._log.last_error}; see `edge doctor`")
