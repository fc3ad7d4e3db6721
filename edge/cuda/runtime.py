"""The GPU of this process: its primary context, which torch and TensorRT share, and the kernels."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import pycuda.driver as driver

from edge.cuda.base import PREPARING, RETIRED
from edge.cuda.kernels import Kernels
from edge.errors import EdgeError, EngineError, UnavailableError
from edge.system import board_model, l4t_release


class Runtime:
    """A GPU that is ready to run chains. Its context is retained until the process ends.

    Attributes:
        arch: Architecture that kernels are compiled for, for example `sm_87`.
        is_integrated: True if host and GPU share their memory, as on a Jetson.
        facts: Properties of GPU and driver that an engine depends on.
        driver_version: Version of CUDA of the driver, for example 12060 for 12.6.
        kernels: The kernels.
        tunings: Tuning for frames of each format, for each chain by its first engine: slots share it.
    """

    def __init__(self) -> None:
        """Compile the kernels for the first GPU.

        Raises:
            UnavailableError: there is no GPU.
            EngineError: the kernels do not run on it.
        """
        device, self._context = _retain_context()
        major, minor = device.compute_capability()
        self.arch = f"sm_{major}{minor}"
        self.is_integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
        self.driver_version: int = driver.get_driver_version()
        self.facts = {
            "gpu": device.name(),  # every Jetson Orin is called "Orin"
            "compute_capability": f"{major}.{minor}",
            "multiprocessors": str(device.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT)),
            "memory_bytes": str(device.total_memory()),
            "board": board_model() or "",
            "driver": l4t_release() or str(self.driver_version),
        }
        self.tunings = WeakKeyDictionary[Any, Any]()
        with self.prepare("preparing the GPU"):
            self.kernels = Kernels(self.arch)

    def activate(self, task: str) -> "ActiveContext":
        """Return a context manager in which this thread may run prepared work on the GPU; errors name the task."""
        return ActiveContext(self._context, task)

    @contextmanager
    def prepare(self, task: str) -> Iterator[None]:
        """Activate the context to make or free memory, engines and graphs; threads take turns."""
        with PREPARING, self.activate(task):
            try:
                yield
            finally:
                RETIRED.clear()


class ActiveContext:
    """A block of CUDA calls. Reusable, from any thread."""

    def __init__(self, context: driver.Context, task: str) -> None:
        """Name the task of the block."""
        self._context, self._task = context, task

    def __enter__(self) -> None:
        """Make the context current in this thread."""
        try:
            self._context.push()
        except driver.Error as error:
            raise self._failure(error) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Restore the thread's context, and raise library errors as `EngineError`."""
        try:
            driver.Context.pop()
        except driver.Error as failure:
            error = error or failure
        if isinstance(error, Exception) and not isinstance(error, EdgeError):
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> EngineError:
        return EngineError(
            f"{self._task} failed: {type(error).__name__}: {error}; if earlier frames succeeded, the GPU's context "
            "may be corrupt: restart the process, and run `edge doctor`"
        )


def open_runtime() -> Runtime:
    """Open this machine's first GPU, once.

    Raises:
        EngineError: there is no GPU, or the kernels do not run on it.
    """
    with PREPARING:
        return _open_once()


@lru_cache(maxsize=1)
def _open_once() -> Runtime:
    return Runtime()


@lru_cache(maxsize=1)
def _retain_context() -> tuple[driver.Device, driver.Context]:
    try:
        driver.init()
        device = driver.Device(0)
        return device, device.retain_primary_context()
    except driver.Error as error:
        raise UnavailableError(f"no NVIDIA GPU can be used here: {error}; run with --backend onnxruntime") from error
