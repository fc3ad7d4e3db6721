"""Every CUDA call of the product: pycuda for context, memory and streams, cuda.core for kernels and graphs."""

from typing import TYPE_CHECKING

from edge.errors import EngineError

if TYPE_CHECKING:
    from edge.cuda.runtime import Runtime


def get_runtime() -> "Runtime":
    """Return this process's GPU, opened once.

    Raises:
        EngineError: there is none, or a library to use it with is missing.
    """
    try:
        from edge.cuda.runtime import runtime
    except ImportError as error:  # pycuda needs the driver's library to be imported
        raise missing_library("frames cannot be run on a GPU here", error) from error
    return runtime()


def missing_library(what: str, error: ImportError) -> EngineError:
    """Return what to say where a library for the GPU is missing."""
    return EngineError(
        f"{what} ({error}); install the NVIDIA driver, then pip install 'early-exit[cuda13]' "
        "(cuda12 for a driver of CUDA 12, as on JetPack 6), or run with --backend onnxruntime"
    )
