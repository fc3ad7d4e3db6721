"""Facts about this machine, for cache keys and for the conditions of measurements."""

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from edge.machine_state import ROOT, MachineState, first_line, lines, machine_state, throttling

LIBRARIES = (
    "numpy", "onnxruntime", "openvino", "opencv-python-headless", "opencv-python", "av", "simplejpeg", "torch",
    "tensorrt", "tensorrt-rtx",
)  # fmt: skip
"""Distributions whose version affects results."""
DISTRIBUTION = "early-exit"
CHECKOUT = Path(__file__).resolve().parents[1]
"""Folder of this package: a checkout, or `site-packages`."""
BLOCKING_CALL = "edge: blocking call"
"""Name of threads in which a library waits for a device or server."""
EXTRAS = {
    "cv2": "runtime",
    "onnxruntime": "runtime",
    "openvino": "openvino",
    "av": "runtime",
    "simplejpeg": "runtime",
    "aiomqtt": "live",
    "prometheus_client": "live",
    "starlette": "live",
    "uvicorn": "live",
    "websockets": "live",
    "pyarrow": "distributed",
    "ray": "distributed",
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
    "cryptography": "trust",
    "oras": "trust",
    "requests": "trust",
    "urllib3": "trust",
}
"""Extra of this project that installs a module; `compile` installs the others."""
REQUIRED = ("numpy", "rich")
"""Modules that are installed without extras."""


def cpu_name(root: Path = ROOT) -> str:
    """Return the processor's name."""
    return _cpuinfo("model name", root) or platform.processor() or platform.machine()


def cpu_identity() -> str:
    """Return the processor's name with a digest of its instruction sets, as a key for code built for it."""
    features = _cpuinfo("flags") or _cpuinfo("Features")
    return f"{cpu_name()} {hashlib.sha256(features.encode()).hexdigest()[:8]}"


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def board_model(root: Path = ROOT) -> str | None:
    """Return the board's name from the device tree, such as a Jetson's; None if there is none."""
    return first_line(root / "proc/device-tree/model")


def l4t_release(root: Path = ROOT) -> str | None:
    """Return the release of NVIDIA's Linux for Tegra on a Jetson; None elsewhere."""
    return first_line(root / "etc/nv_tegra_release")


def jetpack_version(root: Path = ROOT) -> str | None:
    """Return the version of JetPack's package; None where it is not installed, as in NVIDIA's base image."""
    package = re.search(
        r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\S+)",
        "\n".join(lines(root / "var/lib/dpkg/status")),
        re.MULTILINE,
    )
    return package[1] if package else None


def gpu_names(root: Path = ROOT) -> list[str]:
    """Return the names of the NVIDIA GPUs that the kernel driver lists."""
    names = []
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        names += [line.partition(":")[2].strip() for line in lines(path) if line.startswith("Model:")]
    return names


def nvidia_driver(root: Path = ROOT) -> str | None:
    """Return the version line of NVIDIA's kernel driver, or `integrated GPU` on a Jetson; None without a driver."""
    version, jetson = root / "proc/driver/nvidia/version", (root / "dev/nvhost-gpu", root / "dev/nvgpu")
    if version.exists():
        return first_line(version) or "unknown version"
    return "integrated GPU" if any(node.exists() for node in jetson) else None


def has_nvidia_gpu() -> bool:
    """Check for an NVIDIA GPU with a kernel driver, discrete or integrated in a Jetson."""
    return nvidia_driver() is not None


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed `LIBRARIES`."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_revision(checkout: Path) -> str | None:
    """Return the commit of a checkout, with `-dirty` if files differ from it; None if the folder is not a checkout."""
    if not (checkout / ".git").exists():  # a folder of packages may lie inside of somebody else's checkout
        return None
    describe = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def conditions(root: Path = ROOT) -> dict[str, Any]:
    """Return the conditions to record with a measurement, as they are before it."""
    return {
        "cpu": cpu_name(root),
        "cores": usable_cores(),
        "board": board_model(root),
        "l4t": l4t_release(root),
        "jetpack": jetpack_version(root),
        "system": platform.platform(),
        "gpus": gpu_names(root),
        "driver": nvidia_driver(root),
        "libraries": library_versions(),
        "revision": git_revision(CHECKOUT),
        "command_line": shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]]),
        **asdict(machine_state(root)),
    }


def with_end(before: dict[str, Any], root: Path = ROOT) -> dict[str, Any]:
    """Return conditions with the machine's state after the measurement, and the signs of throttling since `before`."""
    state = MachineState(**{field.name: before[field.name] for field in fields(MachineState)})
    after = machine_state(root)
    return before | {"after": asdict(after), "throttling": throttling(state, after)}


def pip_install(extra: str) -> str:
    """Return the command that installs this project with an extra, from its checkout or wheel: it is not on PyPI."""
    return f"pip install {shlex.quote(f'{_installed_from()}[{extra}]')}"


def pip_uninstall(module: str, *others: str) -> str:
    """Return the command that removes the distributions that have a module, and others that depend on them."""
    owners = metadata.packages_distributions().get(module, ())
    return " ".join(["pip uninstall -y", *sorted({*owners, *others})])


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
    if (CHECKOUT / "pyproject.toml").is_file():
        return str(CHECKOUT)
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


def _cpuinfo(field: str, root: Path = ROOT) -> str:
    for line in lines(root / "proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""
