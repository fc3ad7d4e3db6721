"""Segment to runnable engine: one file or folder per inference library."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, get_args

from edge.errors import EngineError, UnavailableError
from edge.system import has_nvidia_gpu, import_remedy, usable_cores

if TYPE_CHECKING:  # pytest imports the names of the backends at every start
    from edge.cuda.base import Sync
    from edge.engines.base import Backend

CPU_BACKENDS = ("onnxruntime", "openvino")
BACKENDS = (*CPU_BACKENDS, "tensorrt", "tensorrt-rtx")
MAX_THREADS = max(256, usable_cores())
INSTALL = {
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install openvino",
    "tensorrt": "JetPack installs it (create virtual environments with --system-site-packages); on other machines, pip "
    "install tensorrt",
    "tensorrt-rtx": "pip install tensorrt-rtx",
}
"""Remedies for a missing library."""
TARGET_REMEDY = "leave out the target, or choose the backend tensorrt-rtx"


def default_backend() -> str:
    """Return `tensorrt` if TensorRT, pycuda and a GPU are present, else `onnxruntime`."""
    return "tensorrt" if has_nvidia_gpu() and find_spec("tensorrt") and find_spec("pycuda") else "onnxruntime"


def known_backend(name: str) -> str:
    """Return the name of a backend: `default_backend` for `auto`.

    Raises:
        EngineError: the backend is unknown.
    """
    if name not in ("auto", *BACKENDS):
        raise EngineError(f"unknown backend {name!r}; choose one of auto, {', '.join(BACKENDS)}")
    return default_backend() if name == "auto" else name


def installed_cpu_backends() -> list[str]:
    """Return the backends on the CPU whose libraries are installed."""
    return [name for name in CPU_BACKENDS if find_spec(name)]


def backend_named(
    name: str, *, threads: int = 1, target: str | None = None, gpu_sync: "Sync | None" = None
) -> "Backend":
    """Return a backend.

    Args:
        name: One of `BACKENDS`, or `auto` for `default_backend`.
        threads: CPU threads per segment, 0 for all cores; backends on a GPU ignore it.
        target: GPU to build for, such as `sm89`; by default the backend chooses.
        gpu_sync: How threads wait for the GPU: `spin` takes a core, `block` takes longer; by default the better one,
            by timing. Only for backends on a GPU.

    Raises:
        EngineError: the backend is unknown, cannot build for the target, or its library is not installed; or an option
            is not one of the backend's.
    """
    _check_threads(threads)
    _check_gpu_sync(gpu_sync)
    name = known_backend(name)
    try:
        if name == "onnxruntime":
            from edge.engines.onnxruntime import OnnxRuntime

            _check_cpu_options(name, target, gpu_sync)
            return OnnxRuntime(threads)
        if name == "openvino":
            from edge.engines.openvino import OpenVino

            _check_cpu_options(name, target, gpu_sync)
            return OpenVino(threads)
        if name == "tensorrt":
            from edge.engines.tensorrt.tensorrt import TensorRt

            _check_no_target(name, "machine's GPU only", target)
            return TensorRt(gpu_sync)
        from edge.engines.tensorrt.tensorrt_rtx import TensorRtRtx

        return TensorRtRtx(target, gpu_sync)
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError)
        problem = "is not installed" if is_missing else "cannot be loaded"
        remedy = INSTALL[name] if is_missing else import_remedy(error)
        raise UnavailableError(f"backend {name} needs a library that {problem} ({error}); {remedy}") from error


def _check_cpu_options(name: str, target: str | None, gpu_sync: str | None) -> None:
    _check_no_target(name, "CPU only", target)
    if gpu_sync is not None:
        raise EngineError(f"{name} runs on the CPU, so gpu_sync cannot be {gpu_sync!r}; leave it out")


def _check_gpu_sync(gpu_sync: str | None) -> None:
    from edge.cuda.base import Sync

    if gpu_sync not in (None, *get_args(Sync)):
        raise EngineError(f"gpu_sync is {gpu_sync!r}; give {' or '.join(get_args(Sync))}, or leave it out")


def _check_no_target(name: str, where: str, target: str | None) -> None:
    if target is not None:
        raise EngineError(f"{name} builds for this {where}, not for {target!r}; {TARGET_REMEDY}")


def _check_threads(threads: int) -> None:
    if isinstance(threads, bool) or not isinstance(threads, int) or not 0 <= threads <= MAX_THREADS:
        raise EngineError(f"threads is {threads!r}; give 0 for all cores, or a number from 1 to {MAX_THREADS}")
