"""The GPU's primary context, shared with torch and TensorRT: retained once, pushed and popped around every use."""

from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from types import TracebackType
from typing import Any

import pycuda.driver as driver
from cuda.bindings import driver as cuda

from edge.errors import EdgeError, EngineError, UnavailableError

PREPARING = RLock()
"""Held while memory and graphs are made or freed, and engines are loaded: that may synchronise the whole GPU, which
spoils another thread's capture. Engines are freed without it, by their last reference: spoilt captures are repeated."""


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
        """Return a context manager in which this thread may run prepared work on the GPU; errors name the task."""
        return ActiveContext(self._opened(task), task, nullcontext())

    def prepare(self, task: str) -> "ActiveContext":
        """Return the same for making and freeing memory, engines and graphs; threads take turns."""
        return ActiveContext(self._opened(task), task, PREPARING)

    def close(self) -> None:
        """Release the context. Idempotent."""
        if self._context is not None:
            self._context.push()
            self._context.detach()  # releases it, but leaves it current in this thread
            cuda.cuCtxPopCurrent()
            self._context = None

    def _opened(self, task: str) -> driver.Context:
        if self._context is None:
            raise EngineError(f"{task} failed: the GPU's context was released; open it again")
        return self._context


class ActiveContext:
    """A block of CUDA calls. Reusable, from any thread."""

    def __init__(self, context: driver.Context, task: str, lock: AbstractContextManager[Any]) -> None:
        """Name the task of the block; the lock is held in it."""
        self._context, self._task, self._lock = context, task, lock

    def __enter__(self) -> None:
        """Make the context current in this thread."""
        self._lock.__enter__()
        try:
            self._context.push()
        except driver.Error as error:
            self._lock.__exit__(None, None, None)
            raise self._failure(error) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Restore the thread's context, and raise library errors as `EngineError`."""
        try:
            driver.Context.pop()
        except driver.Error as failure:
            error = error or failure
        finally:
            self._lock.__exit__(None, None, None)
        if isinstance(error, Exception) and not isinstance(error, EdgeError):
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> EngineError:
        return EngineError(
            f"{self._task} failed: {type(error).__name__}: {error}; if earlier frames succeeded, the GPU's context "
            "may be corrupt: restart the process, and run `edge doctor`"
        )
