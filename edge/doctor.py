"""What this machine has and lacks for running a bundle."""

import importlib
import platform
from dataclasses import dataclass
from pathlib import Path

from edge.cuda import opened
from edge.engines.cache import default_root
from edge.errors import EngineError
from edge.machine import board_model, cpu_name, usable_cores


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    found: str
    is_well: bool
    """Whether bundles can run without it, or it is there."""
    remedy: str
    """What to do where it is not."""


def examine() -> list[Finding]:
    """Look at processor, libraries, GPU, cameras and the engine cache."""
    board = f", {board_model()}" if board_model() else ""
    return [
        Finding(
            "machine", f"{cpu_name()}, {usable_cores()} cores{board}, Python {platform.python_version()}", True, ""
        ),
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
        exits_on_the_gpu(),
        _cameras(),
        _gstreamer(),
        Finding("engine cache", str(default_root()), True, ""),
    ]


def _library(name: str, *, needed: bool, remedy: str) -> Finding:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return Finding(name, f"missing ({error})", not needed, remedy)
    return Finding(name, str(getattr(module, "__version__", "present")), True, "")


def _gpu() -> Finding:
    driver = Path("/proc/driver/nvidia/version")
    if driver.exists():
        return Finding("NVIDIA driver", driver.read_text().splitlines()[0], True, "")
    if Path("/dev/nvhost-gpu").exists() or Path("/dev/nvgpu").exists():
        return Finding("NVIDIA driver", "integrated GPU", True, "")
    return Finding("NVIDIA driver", "none; engines run on the CPU", True, "install the driver to run TensorRT engines")


def exits_on_the_gpu() -> Finding:
    """Find out who decides on exits here: the GPU itself, or the host, and then why."""
    try:
        found = opened()
    except EngineError as error:
        remedy = "install the NVIDIA driver and pip install 'early-exit[cuda13]' (cuda12 on JetPack 6)"
        return Finding("exits on the GPU", f"not run here: {error.__cause__ or error}", True, remedy)
    if found.level == "graph":
        return Finding("exits on the GPU", "decided on the GPU: one graph, one wait a frame", True, "")
    why = f"decided by the host, exit by exit: {found.why_not_graph}"
    return Finding("exits on the GPU", why, False, "update the driver to CUDA 12.5 or later")


def _cameras() -> Finding:
    devices = sorted(str(path) for path in Path("/dev").glob("video*"))
    return Finding("cameras", ", ".join(devices) or "none; videos and folders can be run", True, "plug in a camera")


def _gstreamer() -> Finding:
    """Look whether OpenCV reads CSI cameras; an OpenCV of pip hides the system's, which does."""
    remedy = "apt-get install python3-opencv, and no OpenCV of pip beside it"
    try:
        import cv2
    except ImportError:
        return Finding("GStreamer", "unknown without cv2", True, remedy)
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        return Finding("GStreamer", "in OpenCV", True, "")
    return Finding("GStreamer", "not in this OpenCV; CSI cameras and pipelines cannot be read", True, remedy)
