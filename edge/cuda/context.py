"""The GPU's primary context, which torch and TensorRT use too: retained once, pushed and popped around every use."""

from types import TracebackType

import pycuda.driver as driver
from cuda.bindings import driver as cuda

from edge.errors import EdgeError, EngineError


class PrimaryContext:
    """One GPU of this process.

    Attributes:
        arch: What kernels are compiled for, such as `sm_87`.
        is_integrated: Whether host and GPU share their memory, as on a Jetson.
    """

    def __init__(self, index: int = 0) -> None:
        """Retain the context.

        Raises:
            EngineError: there is no such GPU.
        """
        try:
            driver.init()
            device = driver.Device(index)
            self._context = device.retain_primary_context()
        except driver.Error as error:
            raise EngineError(f"no NVIDIA GPU can be used here: {error}; run with --backend onnxruntime") from error
        major, minor = device.compute_capability()
        self.arch = f"sm_{major}{minor}"
        self.is_integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))

    def activate(self, what: str) -> "Calling":
        """Return a block in which this thread may use the GPU, and in which errors say what was being done."""
        if self._context is None:
            raise EngineError(f"{what}: the GPU was let go of; open it again")
        return Calling(self._context, what)

    def close(self) -> None:
        """Let go of the context; may be called twice."""
        if self._context is not None:
            self._context.push()
            self._context.detach()  # releases it, but leaves it this thread's
            cuda.cuCtxPopCurrent()
            self._context = None


class Calling:
    """A block of CUDA calls; may be entered again and again, by any thread."""

    def __init__(self, context: driver.Context, what: str) -> None:
        """Name what is done in it."""
        self._context, self._what = context, what

    def __enter__(self) -> None:
        """Make the context this thread's."""
        self._context.push()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give the thread back the context it had, and say what failed."""
        driver.Context.pop()
        if isinstance(error, Exception) and not isinstance(error, EdgeError):
            raise EngineError(
                f"{self._what} failed: {type(error).__name__}: {error}; if this is not the first frame, the GPU may "
                "need to be opened anew: start again, and see `edge doctor`"
            ) from error
