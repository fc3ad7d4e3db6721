"""Segment to runnable engine: one file or folder per inference library."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from edge.errors import EngineError, UnavailableError
from edge.system import has_nvidia_gpu

if TYPE_CHECKING:  # pytest reads the names of backends each time it starts
    from edge.engines.base import Backend

BACKENDS = ("onnxruntime", "tensorrt", "tensorrt-rtx")


def default_backend() -> str:
    """Return `tensorrt` where the library and a GPU are present, else `onnxruntime`."""
    return "tensorrt" if has_nvidia_gpu() and find_spec("tensorrt") and find_spec("pycuda") else "onnxruntime"


def backend_named(name: str, *, threads: int = 1, target: str | None = None) -> "Backend":
    """Return a backend.

    Args:
        name: One of `BACKENDS`, or `auto` for `default_backend`.
        threads: CPU threads per segment; backends on a GPU ignore it.
        target: GPU to build for, such as `sm89`; by default the backend's own choice.

    Raises:
        EngineError: there is no such backend, or its library is not installed.
    """
    name = default_backend() if name == "auto" else name
    try:
        if name == "onnxruntime":
            from edge.engines.onnxruntime import OnnxRuntime

            if target is not None:
                raise EngineError(f"onnxruntime builds for this CPU only, not for {target!r}; leave out the target")
            return OnnxRuntime(threads)
        if name == "tensorrt":
            from edge.engines.tensorrt.tensorrt import TensorRt

            if target is not None:
                raise EngineError(f"tensorrt builds for the GPU in this machine only, not for {target!r}; leave it out")
            return TensorRt()
        if name == "tensorrt-rtx":
            from edge.engines.tensorrt.tensorrt_rtx import TensorRtRtx

            return TensorRtRtx(target)
    except ImportError as error:
        raise UnavailableError(
            f"backend {name} needs a library that is not installed ({error}); pip install {name}"
        ) from error
    raise EngineError(f"unknown backend {name!r}; there are {', '.join(BACKENDS)}")
