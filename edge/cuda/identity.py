"""Identity of this machine's GPU: engines built on one GPU must not be loaded on another."""

from edge.cuda import missing_library
from edge.errors import UnavailableError
from edge.system import board_model, l4t_release


def device_facts() -> dict[str, str]:
    """Return the facts about GPU and driver that an engine depends on.

    The name alone identifies no GPU: every Jetson Orin is called "Orin".

    Raises:
        UnavailableError: there is no GPU, or pycuda is missing.
    """
    try:
        import pycuda.driver as cuda
    except ImportError as error:  # pycuda cannot be imported without the driver's library
        raise missing_library("the GPU cannot be identified", error) from error
    try:
        cuda.init()
        device = cuda.Device(0)
    except cuda.Error as error:
        raise UnavailableError(f"no NVIDIA GPU can be used here: {error}; run with --backend onnxruntime") from error
    major, minor = device.compute_capability()
    return {
        "gpu": device.name(),
        "compute_capability": f"{major}.{minor}",
        "multiprocessors": str(device.get_attribute(cuda.device_attribute.MULTIPROCESSOR_COUNT)),
        "memory_bytes": str(device.total_memory()),
        "board": board_model() or "",
        "driver": l4t_release() or str(cuda.get_driver_version()),
    }
