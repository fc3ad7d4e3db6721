"""Every CUDA call of this project: pycuda for context, memory and streams, cuda.core for kernels and graphs."""

from typing import TYPE_CHECKING

from edge.errors import UnavailableError
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
        raise UnavailableError(
            f"frames cannot be run on a GPU here ({error}); install the NVIDIA driver and the CUDA toolkit, which "
            f"pycuda is built with, then {pip_install('cuda13')} (cuda12 for a driver of CUDA 12, as on JetPack 6), or "
            "run with --backend onnxruntime"
        ) from error
    return open_runtime()
