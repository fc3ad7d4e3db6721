"""Capabilities of this machine for running a bundle."""

import importlib
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edge.cuda import get_runtime
from edge.engines import INSTALL
from edge.errors import EdgeError, EngineError, UnavailableError, one_line
from edge.storage import cache_root
from edge.system import board_model, cpu_name, has_nvidia_gpu, nvidia_driver, pip_install, usable_cores

State = Literal["ok", "problem", "absent"]
OPENCV = "pip install opencv-python-headless (on a Jetson: apt-get install python3-opencv)"


@dataclass(frozen=True, slots=True)
class Check:
    """One capability."""

    name: str
    state: State
    """`absent`: missing, but bundles run without it. `problem`: missing and needed, or present and unusable."""
    value: str
    remedy: str = ""
    """Command or advice that solves a problem or adds an absent capability."""

    @property
    def ok(self) -> bool:
        """True if the capability is present and usable."""
        return self.state == "ok"


def check_machine() -> list[Check]:
    """Check libraries, GPU, cameras and the engine cache."""
    board = f", {board_model()}" if board_model() else ""
    return [
        Check("machine", "ok", f"{cpu_name()}, {usable_cores()} cores{board}, Python {platform.python_version()}"),
        _library("numpy", needed=True, remedy="pip install numpy"),
        _library("cv2", needed=True, remedy=OPENCV),
        _library("av", needed=False, remedy="pip install 'av>=14', to read videos and network streams"),
        _library("simplejpeg", needed=False, remedy="pip install simplejpeg, to read JPEG files"),
        _library("onnxruntime", needed=True, remedy=INSTALL["onnxruntime"]),
        _tensorrt(),
        _library("tensorrt_rtx", needed=False, remedy=f"{INSTALL['tensorrt-rtx']}, for RTX GPUs; not Orin, H100, Thor"),
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
    except Exception as error:  # libraries raise many exceptions, for missing system libraries and wrong versions
        return Check(
            name, "problem", f"installed, but cannot be loaded: {one_line(str(error))}", f"reinstall: {remedy}"
        )
    return Check(name, "ok", str(getattr(module, "__version__", "unknown version")))


def _tensorrt() -> Check:
    check = _library("tensorrt", needed=False, remedy=INSTALL["tensorrt"])
    if check.value.startswith("10.16") and "Orin" in (board_model() or ""):
        note = "may refuse int8 on Orin (NVIDIA/TensorRT#4832)"
        return replace(check, value=f"{check.value}, {note}", remedy="if a build fails, use --precision fp16")
    return check


def _gpu() -> Check:
    if driver := nvidia_driver():
        return Check("NVIDIA driver", "ok", driver)
    return Check("NVIDIA driver", "absent", "engines run on the CPU", "install the driver to run TensorRT engines")


def check_graph_mode() -> Check:
    """Check that exit decisions can be taken on the GPU; else, the value has the reason."""
    name = "exit decisions on the GPU"
    try:
        runtime = get_runtime()
        from edge.cuda.probe import chain_unsupported_reason

        unsupported = chain_unsupported_reason(runtime, "graph")
    except UnavailableError as error:
        remedy = f"install the NVIDIA driver and the CUDA toolkit, then {pip_install('cuda13')} (cuda12 on JetPack 6)"
        reason = one_line(str(error.__cause__ or error))
        return Check(name, "problem" if has_nvidia_gpu() else "absent", f"unavailable: {reason}", remedy)
    except EngineError as error:
        unsupported = one_line(str(error))
    if unsupported:
        return Check(name, "problem", f"unavailable: {unsupported}", "update the driver to CUDA 12.5 or later")
    return Check(name, "ok", "available: one CUDA graph and one wait per frame")


def _cameras() -> Check:
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        return Check("cameras", "absent", "none", "plug in a camera")
    if closed := [str(device) for device in devices if not os.access(device, os.R_OK | os.W_OK)]:
        remedy = "add this user to their group, usually with sudo usermod -aG video $USER, and log in again"
        return Check("cameras", "problem", f"no permission for {', '.join(closed)}", remedy)
    return Check("cameras", "ok", ", ".join(map(str, devices)))


def _gstreamer() -> Check:
    """Check that OpenCV has GStreamer, which CSI cameras need; the OpenCV of pip has none and hides the system's."""
    remedy = "apt-get install python3-opencv, and remove the OpenCV of pip"
    try:
        import cv2

        has_gstreamer = cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)
    except Exception:  # the check of cv2 reports it
        return Check("GStreamer", "absent", "unknown without cv2", remedy)
    if has_gstreamer:
        return Check("GStreamer", "ok", "in OpenCV")
    return Check("GStreamer", "absent", "not in this OpenCV, which cannot read CSI cameras and pipelines", remedy)


def _engine_cache() -> Check:
    remedy = "set EDGE_CACHE to a folder that this user can write"
    try:
        root = cache_root()
    except EdgeError as error:
        return Check("engine cache", "problem", str(error), remedy)
    existing = next(folder for folder in (root.absolute(), *root.absolute().parents) if os.path.lexists(folder))
    if not existing.is_dir():
        return Check("engine cache", "problem", f"{root}: {existing} is not a folder", remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check("engine cache", "problem", f"{root}: no permission to write {existing}", remedy)
    return Check("engine cache", "ok", str(root))
