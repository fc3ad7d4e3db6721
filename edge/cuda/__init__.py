"""Every CUDA call of this project: pycuda for context, memory and streams, cuda.core for kernels and graphs."""

from typing import TYPE_CHECKING

from edge.errors import EngineError, UnavailableError
from edge.system import pip_install

if TYPE_CHECKING:
    from edge.cuda.runtime import Runtime


def get_runtime() -> "Runtime":
    """Return this process's GPU runtime, opened once.

    Raises:
        UnavailableError: there is no GPU, or a library for it is missing.
    """
    try:
        from edge.cuda.runtime import open_runtime
    except ImportError as error:  # pycuda cannot be imported without the driver's library
        raise missing_library("frames cannot be run on a GPU here", error) from error
    return open_runtime()


def missing_library(consequence: str, error: ImportError) -> EngineError:
    """Return the error for a missing CUDA library."""
    return UnavailableError(
        f"{consequence} ({error}); install the NVIDIA driver and the CUDA toolkit, which pycuda is built with, then "
        f"{pip_install('cuda13')} (cuda12 for a driver of CUDA 12, as on JetPack 6), or run with --backend onnxruntime"
    )
