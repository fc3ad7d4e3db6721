"""Facts about this machine, for cache keys and for the conditions of measurements."""

import hashlib
import json
import os
import platform
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LIBRARIES = (
    "numpy", "onnxruntime", "opencv-python-headless", "opencv-python", "av", "simplejpeg", "torch", "tensorrt",
    "tensorrt-rtx",
)  # fmt: skip
"""Distributions whose version affects results."""
DISTRIBUTION = "early-exit"
BLOCKING_CALL = "edge: blocking call"
"""Name of threads in which a library waits for a device or server."""
EXTRAS = {
    "cv2": "runtime",
    "onnxruntime": "runtime",
    "av": "runtime",
    "simplejpeg": "runtime",
    "aiomqtt": "live",
    "prometheus_client": "live",
    "starlette": "live",
    "uvicorn": "live",
    "pycuda": "cuda13",
    "cuda": "cuda13",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "torch": "training",
    "lightning_fabric": "training",
    "sklearn": "training",
    "tensorly": "training",
    "tensorboard": "training",
    "timm": "timm",
    "torchvision": "timm",
    "torch_tensorrt": "torch-tensorrt",
}
"""Extra of this project that installs a module; `compile` installs the others."""
REQUIRED = ("numpy", "rich")
"""Modules that are installed without extras."""


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
    """Return the board's name from the device tree, such as a Jetson's; None if there is none."""
    return _first_line(Path("/proc/device-tree/model"))


def l4t_release() -> str | None:
    """Return the release of NVIDIA's Linux for Tegra on a Jetson; None elsewhere."""
    return _first_line(Path("/etc/nv_tegra_release"))


def gpu_names() -> list[str]:
    """Return the names of the NVIDIA GPUs that the kernel driver lists."""
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        names += [line.partition(":")[2].strip() for line in _lines(path) if line.startswith("Model:")]
    return names


def nvidia_driver() -> str | None:
    """Return the version line of NVIDIA's kernel driver, or `integrated GPU` on a Jetson; None without a driver."""
    version, jetson = Path("/proc/driver/nvidia/version"), (Path("/dev/nvhost-gpu"), Path("/dev/nvgpu"))
    if version.exists():
        return _first_line(version) or "unknown version"
    return "integrated GPU" if any(node.exists() for node in jetson) else None


def has_nvidia_gpu() -> bool:
    """Check for an NVIDIA GPU with a kernel driver, discrete or integrated in a Jetson."""
    return nvidia_driver() is not None


def temperatures_c() -> dict[str, float]:
    """Return the temperature of each readable thermal zone, in degrees Celsius."""
    temperatures = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        try:
            temperatures[(zone / "type").read_text().strip()] = int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):  # some zones of a Jetson cannot be read while their component is suspended
            continue
    return temperatures


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed `LIBRARIES`."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def load_average() -> float | None:
    """Return the mean number of running processes in the last minute; None if the system does not report it."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


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
        "load_average": load_average(),
        "libraries": library_versions(),
    }


def pip_install(extra: str) -> str:
    """Return the command that installs this project with an extra, from its checkout or wheel: it is not on PyPI."""
    return f"pip install {shlex.quote(f'{_installed_from()}[{extra}]')}"


def import_remedy(error: ImportError) -> str:
    """Return the remedy for a library that is missing or cannot be loaded."""
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError):
        return f"{module or 'a library'} is installed, but cannot be loaded; reinstall it with its dependencies"
    if module in REQUIRED:
        return f"pip install {module}"
    return pip_install(EXTRAS.get(module, "compile"))


def _installed_from() -> str:
    """Return the checkout that contains this module or that it was installed from, else the wheel."""
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        return str(checkout)
    try:
        origin = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        path = Path(unquote(urlsplit(json.loads(origin or "{}").get("url", "")).path))
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        path = Path()
    if path.name and path.exists():
        return str(path)
    return f"PATH/TO/{DISTRIBUTION.replace('-', '_')}-{_version()}-py3-none-any.whl"


def _version() -> str:
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "VERSION"


def _first_line(path: Path) -> str | None:
    return next((line.rstrip("\0").strip() for line in _lines(path)), "") or None


def _lines(path: Path) -> list[str]:
    """Return a file's lines; an empty list if it is missing or cannot be read."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _cpuinfo(field: str) -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""
