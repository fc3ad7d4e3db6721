"""One file per inference library; `backend_named` finds them."""

from typing import TYPE_CHECKING

from edge.errors import EngineError

if TYPE_CHECKING:  # pytest reads the names of backends each time it starts
    from edge.protocols import Backend

BACKENDS = ("onnxruntime", "tensorrt", "tensorrt-rtx")


def backend_named(name: str, *, threads: int = 1, target: str | None = None) -> "Backend":
    """Return a backend.

    Args:
        name: One of `BACKENDS`.
        threads: CPU threads a segment runs on; backends on a GPU have no use for it.
        target: GPU to build for, such as `sm89`; None is the one in this machine.

    Raises:
        EngineError: there is no such backend, or its library is not installed.
    """
    try:
        if name == "onnxruntime":
            from edge.engines.onnxruntime import OnnxRuntime

            if target is not None:
                raise EngineError(
                    f"onnxruntime builds for this processor only, not for {target!r}; leave out the target"
                )
            return OnnxRuntime(threads)
        if name == "tensorrt":
            from edge.engines.tensorrt import TensorRt

            if target is not None:
                raise EngineError(f"tensorrt builds for the GPU in this machine only, not for {target!r}; leave it out")
            return TensorRt()
        if name == "tensorrt-rtx":
            from edge.engines.tensorrt_rtx import TensorRtRtx

            return TensorRtRtx(target)
    except ImportError as error:
        raise EngineError(
            f"backend {name} needs a library that is not installed ({error}); pip install {name}"
        ) from error
    raise EngineError(f"unknown backend {name!r}; there are {', '.join(BACKENDS)}")
