"""Capabilities of this machine for running a bundle."""

import importlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge.cuda import get_runtime
from edge.errors import EdgeError, EngineError, one_line
from edge.storage import cache_root
from edge.system import board_model, cpu_name, has_nvidia_gpu, nvidia_driver, pip_install, usable_cores

State = Literal["ok", "problem", "absent"]


@dataclass(frozen=True, slots=True)
class Check:
    """One capability."""

    name: str
    state: State
    """`absent` is what bundles run without; a `problem` is missing although needed, or present and unusable."""
    value: str
    remedy: str = ""
    """Command or advice for a problem, or to add what is absent."""

    @property
    def ok(self) -> bool:
        """Whether it is present and usable."""
        return self.state == "ok"


def check_machine() -> list[Check]:
    """Check processor, libraries, GPU, cameras and the engine cache."""
    board = f", {board_model()}" if board_model() else ""
    return [
        Check("machine", "ok", f"{cpu_name()}, {usable_cores()} cores{board}, Python {platform.python_version()}"),
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
        _engine_cache(),
    ]


def _library(name: str, *, needed: bool, remedy: str) -> Check:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return Check(name, "problem" if needed else "absent", "not installed", remedy)
        return Check(name, "problem", f"installed, but it needs {error.name}", f"pip install {error.name}")
    except Exception as error:  # libraries raise many kinds, for missing system libraries and wrong versions
        return Check(
            name, "problem", f"installed, but cannot be loaded: {one_line(str(error))}", f"reinstall: {remedy}"
        )
    return Check(name, "ok", str(getattr(module, "__version__", "of unknown version")))


def _gpu() -> Check:
    if driver := nvidia_driver():
        return Check("NVIDIA driver", "ok", driver)
    return Check("NVIDIA driver", "absent", "engines run on the CPU", "install the driver to run TensorRT engines")


def check_graph_mode() -> Check:
    """Check whether the GPU takes exit decisions itself; if the host does, say why."""
    name = "exits on the GPU"
    try:
        runtime = get_runtime()
    except EngineError as error:
        remedy = f"install the NVIDIA driver and {pip_install('cuda13')} (cuda12 on JetPack 6)"
        reason = one_line(str(error.__cause__ or error))
        return Check(name, "problem" if has_nvidia_gpu() else "absent", f"not run here: {reason}", remedy)
    if runtime.mode == "graph":
        return Check(name, "ok", "decided on the GPU: one graph, one wait a frame")
    why = f"decided by the host, exit by exit: {runtime.graph_unsupported_reason}"
    return Check(name, "problem", why, "update the driver to CUDA 12.5 or later")


def _cameras() -> Check:
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        return Check("cameras", "absent", "videos and folders can be run", "plug in a camera")
    if closed := [str(device) for device in devices if not os.access(device, os.R_OK | os.W_OK)]:
        remedy = "add this user to the group that owns them, often: sudo usermod -aG video $USER; then log in again"
        return Check("cameras", "problem", f"no permission for {', '.join(closed)}", remedy)
    return Check("cameras", "ok", ", ".join(map(str, devices)))


def _gstreamer() -> Check:
    """Check whether OpenCV reads CSI cameras; a pip-installed OpenCV hides the system's, which does."""
    remedy = "apt-get install python3-opencv, and no OpenCV of pip beside it"
    try:
        import cv2

        has_gstreamer = cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)
    except Exception:  # reported for cv2 itself
        return Check("GStreamer", "absent", "unknown without cv2", remedy)
    if has_gstreamer:
        return Check("GStreamer", "ok", "in OpenCV")
    return Check("GStreamer", "absent", "not in this OpenCV: it reads no CSI cameras and pipelines", remedy)


def _engine_cache() -> Check:
    remedy = "set EDGE_CACHE to a folder that this user can write"
    try:
        root = cache_root()
    except EdgeError as error:
        return Check("engine cache", "problem", str(error), remedy)
    existing = next(folder for folder in (root.absolute(), *root.absolute().parents) if os.path.lexists(folder))
    if not existing.is_dir():
        return Check("engine cache", "problem", f"{root}: {existing} is no folder", remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check("engine cache", "problem", f"{root}: no permission to write {existing}", remedy)
    return Check("engine cache", "ok", str(root))
