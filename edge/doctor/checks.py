"""Capabilities of this machine for running a bundle."""

import importlib
import platform
from dataclasses import dataclass
from pathlib import Path

from edge.cuda import get_runtime
from edge.errors import EngineError
from edge.storage import cache_root
from edge.system import board_model, cpu_name, usable_cores


@dataclass(frozen=True, slots=True)
class Check:
    """One capability."""

    name: str
    value: str
    ok: bool
    """Whether it is present, or bundles run without it."""
    remedy: str
    """Command or advice for what is missing."""


def check_machine() -> list[Check]:
    """Check processor, libraries, GPU, cameras and the engine cache."""
    board = f", {board_model()}" if board_model() else ""
    return [
        Check("machine", f"{cpu_name()}, {usable_cores()} cores{board}, Python {platform.python_version()}", True, ""),
        _library("numpy", needed=True, remedy="pip install numpy"),
        _library(
            "cv2",
            needed=True,
            remedy="pip install opencv-python-headless (on a Jetson: apt-get install python3-opencv)",
        ),
        _library("onnxruntime", needed=True, remedy="pip install onnxruntime"),
        _library("tensorrt", needed=False, remedy="comes with JetPack; on a desktop: pip install tensorrt"),
        _library("tensorrt_rtx", needed=False, remedy="pip install tensorrt-rtx, for RTX GPUs"),
        _gpu(),
        check_graph_mode(),
        _cameras(),
        _gstreamer(),
        Check("engine cache", str(cache_root()), True, ""),
    ]


def _library(name: str, *, needed: bool, remedy: str) -> Check:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return Check(name, f"missing ({error})", not needed, remedy)
    return Check(name, str(getattr(module, "__version__", "present")), True, "")


def _gpu() -> Check:
    driver = Path("/proc/driver/nvidia/version")
    if driver.exists():
        return Check("NVIDIA driver", driver.read_text().splitlines()[0], True, "")
    if Path("/dev/nvhost-gpu").exists() or Path("/dev/nvgpu").exists():
        return Check("NVIDIA driver", "integrated GPU", True, "")
    return Check("NVIDIA driver", "none; engines run on the CPU", True, "install the driver to run TensorRT engines")


def check_graph_mode() -> Check:
    """Check whether the GPU takes exit decisions itself; if the host does, say why."""
    try:
        runtime = get_runtime()
    except EngineError as error:
        remedy = "install the NVIDIA driver and pip install 'early-exit[cuda13]' (cuda12 on JetPack 6)"
        return Check("exits on the GPU", f"not run here: {error.__cause__ or error}", True, remedy)
    if runtime.mode == "graph":
        return Check("exits on the GPU", "decided on the GPU: one graph, one wait a frame", True, "")
    why = f"decided by the host, exit by exit: {runtime.graph_unsupported_reason}"
    return Check("exits on the GPU", why, False, "update the driver to CUDA 12.5 or later")


def _cameras() -> Check:
    devices = sorted(str(path) for path in Path("/dev").glob("video*"))
    return Check("cameras", ", ".join(devices) or "none; videos and folders can be run", True, "plug in a camera")


def _gstreamer() -> Check:
    """Check whether OpenCV reads CSI cameras; a pip-installed OpenCV hides the system's, which does."""
    remedy = "apt-get install python3-opencv, and no OpenCV of pip beside it"
    try:
        import cv2
    except ImportError:
        return Check("GStreamer", "unknown without cv2", True, remedy)
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        return Check("GStreamer", "in OpenCV", True, "")
    return Check("GStreamer", "not in this OpenCV; CSI cameras and pipelines cannot be read", True, remedy)
