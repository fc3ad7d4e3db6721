"""Execution contexts that use our memory for intermediate tensors, so that the segments of a slot share it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from edge.storage import write_file

RUNTIME_CACHE = "runtime_cache"
"""File beside an engine with the kernels that TensorRT-RTX compiled for this GPU."""


def context_factory(trt: ModuleType, engine: Any, file: Path) -> Callable[[], Any]:
    """Return the function that creates an execution context of an engine; None is the library's failure."""
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not hasattr(trt, "IRuntimeCache"):
        return lambda: engine.create_execution_context(strategy)
    return _RtxContexts(engine, strategy, file.with_name(RUNTIME_CACHE))


class _RtxContexts:
    """Contexts of TensorRT-RTX, which compiles kernels when an engine runs, and compiles them again without a cache."""

    def __init__(self, engine: Any, strategy: Any, file: Path) -> None:
        """Read the cache; the library ignores one of another GPU or version."""
        self._engine, self._file = engine, file
        self._config = engine.create_runtime_config()
        self._config.set_execution_context_allocation_strategy(strategy)
        self._cache = self._config.create_runtime_cache()
        if file.exists():
            self._cache.deserialize(file.read_bytes())
        self._config.set_runtime_cache(self._cache)

    def __call__(self) -> Any:
        """Create a context, and keep the kernels that this compiled."""
        context = self._engine.create_execution_context(self._config)
        compiled = self._cache.serialize()
        with suppress(OSError):  # a cache mounted read-only
            if compiled is not None and (not self._file.exists() or self._file.read_bytes() != bytes(compiled)):
                write_file(self._file, bytes(compiled))
        return context
