"""The GPU's primary context, shared with torch and TensorRT: retained once, pushed and popped around every use."""

from types import TracebackType

import pycuda.driver as driver
from cuda.bindings import driver as cuda

from edge.errors import EdgeError, EngineError, UnavailableError


class PrimaryContext:
    """The primary context of one GPU.

    Attributes:
        arch: Architecture that kernels are compiled for, for example `sm_87`.
        is_integrated: True if host and GPU share their memory, as on a Jetson.
    """

    def __init__(self, index: int = 0) -> None:
        """Retain the context.

        Raises:
            UnavailableError: there is no such GPU.
        """
        try:
            driver.init()
            device = driver.Device(index)
            self._context = device.retain_primary_context()
        except driver.Error as error:
            raise UnavailableError(
                f"no NVIDIA GPU can be used here: {error}; run with --backend onnxruntime"
            ) from error
        major, minor = device.compute_capability()
        self.arch = f"sm_{major}{minor}"
        self.is_integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))

    def activate(self, task: str) -> "ActiveContext":
        """Return a context manager in which this thread may use the GPU; errors name the task."""
        if self._context is None:
            raise EngineError(f"{task} failed: the GPU's context was released; open it again")
        return ActiveContext(self._context, task)

    def close(self) -> None:
        """Release the context. Idempotent."""
        if self._context is not None:
            self._context.push()
            self._context.detach()  # releases it, but leaves it current in this thread
            cuda.cuCtxPopCurrent()
            self._context = None


class ActiveContext:
    """A block of CUDA calls. Reusable, from any thread."""

    def __init__(self, context: driver.Context, task: str) -> None:
        """Name the task of the block."""
        self._context, self._task = context, task

    def __enter__(self) -> None:
        """Make the context current in this thread."""
        self._context.push()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Restore the thread's context, and raise library errors as `EngineError`."""
        driver.Context.pop()
        if isinstance(error, Exception) and not isinstance(error, EdgeError):
            raise EngineError(
                f"{self._task} failed: {type(error).__name__}: {error}; if earlier frames succeeded, the GPU's context "
                "may be corrupt: restart the process, and run `edge doctor`"
            ) from error
