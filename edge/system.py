"""Facts about this machine, for cache keys and for the conditions of measurements."""

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("numpy", "onnxruntime", "opencv-python-headless", "opencv-python", "torch", "tensorrt", "tensorrt-rtx")


def cpu_name() -> str:
    """Return the processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_identity() -> str:
    """Return the processor's name with a digest of its instruction sets, as a key for code built for it."""
    features = _cpuinfo("flags") or _cpuinfo("Features")
    return f"{cpu_name()} {hashlib.sha256(features.encode()).hexdigest()[:8]}"


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def board_model() -> str | None:
    """Return the board's name from the device tree, as on a Jetson; None where there is none."""
    return _first_line(Path("/proc/device-tree/model"))


def l4t_release() -> str | None:
    """Return the release of NVIDIA's Linux for Tegra on a Jetson; None elsewhere."""
    return _first_line(Path("/etc/nv_tegra_release"))


def gpu_names() -> list[str]:
    """Return the names of the NVIDIA GPUs that the kernel driver lists."""
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        names += [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("Model:")]
    return names


def has_nvidia_gpu() -> bool:
    """Check for an NVIDIA GPU with a kernel driver, discrete or integrated in a Jetson."""
    nodes = ("/proc/driver/nvidia/version", "/dev/nvhost-gpu", "/dev/nvgpu")
    return any(Path(node).exists() for node in nodes)


def temperatures_c() -> dict[str, float]:
    """Return the temperature of each readable thermal zone, in degrees Celsius."""
    temperatures = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        try:
            temperatures[(zone / "type").read_text().strip()] = int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):  # some zones of a Jetson cannot be read while the component is suspended
            continue
    return temperatures


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of those installed libraries that affect results."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def conditions() -> dict[str, Any]:
    """Return the conditions to record with a measurement."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "board": board_model(),
        "l4t": l4t_release(),
        "system": platform.platform(),
        "gpus": gpu_names(),
        "temperatures_c": temperatures_c(),
        "load_average": round(os.getloadavg()[0], 2),
        "libraries": library_versions(),
    }


def _first_line(path: Path) -> str | None:
    return path.read_text().splitlines()[0].rstrip("\0") if path.exists() else None


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""
