"""Facts about this machine, for cache keys and for the conditions beside every number."""

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("numpy", "onnxruntime", "opencv-python-headless", "opencv-python", "torch", "tensorrt", "tensorrt-rtx")


def cpu_name() -> str:
    """Return the processor's name as it calls itself."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_identity() -> str:
    """Return the processor's name with a digest of its instruction sets: what code built for it depends on."""
    features = _cpuinfo("flags") or _cpuinfo("Features")
    return f"{cpu_name()} {hashlib.sha256(features.encode()).hexdigest()[:8]}"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def board_model() -> str | None:
    """Return the name of the board, where the device tree has one, as on a Jetson."""
    path = Path("/proc/device-tree/model")
    return path.read_text().rstrip("\0\n") if path.exists() else None


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries whose behaviour a result depends on, those that are installed."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def conditions() -> dict[str, Any]:
    """Return what a measurement on this machine must be read with."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "board": board_model(),
        "system": platform.platform(),
        "gpu": None,
        "load_before": round(os.getloadavg()[0], 2),
        "libraries": library_versions(),
    }


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""
