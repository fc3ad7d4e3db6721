"""The GPU runtime of this process: context and kernels."""

from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock

from edge.cuda.context import PrimaryContext
from edge.cuda.kernels import Kernels
from edge.errors import EngineError

OPEN_LOCK = Lock()


@dataclass(frozen=True, slots=True)
class Runtime:
    """A GPU that is ready to run chains."""

    context: PrimaryContext
    kernels: Kernels
    logged: set[str] = field(default_factory=set)
    """Warnings logged so far: each is logged once, not once for each slot."""


def open_runtime() -> Runtime:
    """Open this machine's first GPU, once.

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
            return Runtime(context, Kernels(context.arch))
    except EngineError:
        context.close()
        raise
