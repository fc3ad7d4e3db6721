"""The GPU runtime of this process: context, kernels and execution mode."""

from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Literal

from edge.cuda.context import PrimaryContext
from edge.cuda.kernels import Kernels
from edge.cuda.probe import graph_unsupported_reason
from edge.errors import EngineError

OPEN_LOCK = Lock()
Mode = Literal["graph", "stepwise"]
"""`graph`: one launch and one wait per frame. `stepwise`: the host checks each exit."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A GPU that is ready to run chains."""

    context: PrimaryContext
    kernels: Kernels
    mode: Mode
    graph_unsupported_reason: str
    """Empty where the mode is `graph`."""
    logged: set[str] = field(default_factory=set)
    """Warnings logged so far: each is logged once, not once for each slot."""


def open_runtime() -> Runtime:
    """Open this machine's first GPU, once, and test which mode it supports.

    Raises:
        EngineError: there is no GPU, or the kernels do not run on it.
    """
    with OPEN_LOCK:
        return _open_once()


@lru_cache(maxsize=1)
def _open_once() -> Runtime:
    context = PrimaryContext()
    try:
        with context.prepare("preparing the GPU"):
            kernels = Kernels(context.arch)
            problem = graph_unsupported_reason(kernels)
    except EngineError:
        context.close()
        raise
    return Runtime(context, kernels, "stepwise" if problem else "graph", problem)
