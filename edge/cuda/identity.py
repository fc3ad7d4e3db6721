"""What tells this machine's GPU from any other: engines built on one must not be loaded on another."""

from edge.cuda import missing_library
from edge.errors import EngineError
from edge.system import board_model, l4t_release


def device_facts() -> dict[str, str]:
    """Return what an engine depends on besides its library; the name is not enough, all Orins are called "Orin".

    Raises:
        EngineError: there is no GPU, or pycuda is missing.
    """
    try:
        import pycuda.driver as cuda
    except ImportError as error:  # pycuda needs the driver's library to be imported
        raise missing_library("the GPU cannot be asked what it is", error) from error
    try:
        cuda.init()
        device = cuda.Device(0)
    except cuda.Error as error:
        raise EngineError(f"no NVIDIA GPU can be used here: {error}; run with --backend onnxruntime") from error
    major, minor = device.compute_capability()
    return {
        "gpu": device.name(),
        "compute_capability": f"{major}.{minor}",
        "multiprocessors": str(device.get_attribute(cuda.device_attribute.MULTIPROCESSOR_COUNT)),
        "memory_bytes": str(device.total_memory()),
        "board": board_model() or "",
        "driver": l4t_release() or str(cuda.get_driver_version()),
    }
