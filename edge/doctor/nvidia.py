"""Checks of the GPU: driver, CUDA, and the libraries that run engines there."""

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from edge.cuda import get_runtime
from edge.doctor.cameras import join_groups
from edge.doctor.check import Check
from edge.doctor.jetpack import MIN_TENSORRT, is_jetson, is_recent_tensorrt, jetpack_release
from edge.doctor.libraries import check_library
from edge.engines import INSTALL
from edge.errors import EngineError, UnavailableError, one_line
from edge.machine_state import ROOT
from edge.system import board_model, gpu_names, has_nvidia_gpu, nvidia_driver, pip_install, pip_uninstall

DEVICES = (
    "dev/nvmap",
    "dev/nvhost-gpu",
    "dev/nvhost-ctrl-gpu",
    "dev/nvgpu/igpu0/*",
    "dev/nvidiactl",
    "dev/nvidia[0-9]",
)
"""Devices that a program on the GPU opens: of a Jetson's integrated GPU, and of NVIDIA's desktop driver."""
TOOLKIT_VERSION = "usr/local/cuda/version.json"
WITHOUT_RTX = ("Orin", "Thor", "H100", "H200")
"""GPUs of compute capability 8.7, 11.0 and 9.0, which TensorRT for RTX has no target for."""
MIN_DRIVER = 12050
"""Version of CUDA from which drivers have the conditional nodes of a chain's graph; 12050 is CUDA 12.5."""
INT8_TRAP = "may refuse int8 on Orin (NVIDIA/TensorRT#4832)"


def check_driver(root: Path = ROOT) -> Check:
    """Check the kernel driver, and that this user may open its devices."""
    name, driver = "NVIDIA driver", nvidia_driver(root)
    if driver is None:
        remedy = "sudo apt-get install nvidia-jetpack" if is_jetson(root) else "install NVIDIA's driver"
        return Check(name, "absent", "none: engines run on the CPU", remedy)
    devices = [device for pattern in DEVICES for device in sorted(root.glob(pattern))]
    if closed := [str(device) for device in devices if not os.access(device, os.R_OK | os.W_OK)]:
        return Check(name, "problem", f"no permission for {', '.join(closed)}", join_groups("video,render"))
    return Check(name, "ok", driver)


def check_toolkit(root: Path = ROOT) -> Check:
    """Check the CUDA toolkit, which pip builds pycuda with."""
    name, release = "CUDA toolkit", jetpack_release(root)
    version = _toolkit_version(root)
    if version is None:
        remedy = "sudo apt-get install nvidia-jetpack" if is_jetson(root) else "install NVIDIA's CUDA toolkit"
        return Check(name, "absent", "not in /usr/local/cuda; pip builds pycuda with it", remedy)
    if release is not None and not version.startswith(release.cuda):
        value = f"{version}; JetPack {release.version} comes with {release.cuda}"
        return Check(name, "warning", value, "sudo update-alternatives --config cuda")
    return Check(name, "ok", version)


def check_cuda_libraries(root: Path = ROOT) -> list[Check]:
    """Check the libraries that call CUDA."""
    release = jetpack_release(root)
    extra = release.cuda_extra if release else "cuda13"
    build = f"PATH=/usr/local/cuda/bin:$PATH {pip_install(extra)}"
    note = "" if release else " (cuda12 for a driver of CUDA 12)"
    return [check_library("pycuda", f"{build}{note}"), check_library("cuda.core", f"{pip_install(extra)}{note}")]


def check_tensorrt(root: Path = ROOT) -> Check:
    """Check TensorRT: that it loads, is recent enough, and belongs to this JetPack."""
    remedy = "sudo apt-get install python3-libnvinfer" if is_jetson(root) else INSTALL["tensorrt"]
    check, release = check_library("tensorrt", remedy, root), jetpack_release(root)
    if not check.ok:
        return check
    if not is_recent_tensorrt(check.value):
        value = f"{check.value}; bundles need {MIN_TENSORRT} or later"
        return replace(
            check, state="problem", value=value, remedy="flash JetPack 6.2 or 7.2" if release else "update it"
        )
    if release is not None and not f"{check.value}.".startswith(f"{release.tensorrt}."):
        value = f"{check.value}; JetPack {release.version} comes with {release.tensorrt}"
        remedy = f"{pip_uninstall('tensorrt', 'tensorrt')}, to see JetPack's own"
        return replace(check, state="warning", value=value, remedy=remedy)
    if check.value.startswith("10.16") and "Orin" in (board_model(root) or ""):
        value, remedy = f"{check.value}, {INT8_TRAP}", "if a build fails, add --precision fp16"
        return replace(check, state="warning", value=value, remedy=remedy)
    return check


def check_tensorrt_rtx(root: Path = ROOT) -> Check:
    """Check TensorRT for RTX, and that it has a target for this GPU."""
    check = check_library("tensorrt_rtx", INSTALL["tensorrt-rtx"], root)
    devices = " ".join([board_model(root) or "", *gpu_names(root)])
    if device := next((name for name in WITHOUT_RTX if name in devices), None):
        value = f"{check.value}; it has no target for {device}"
        return replace(check, state="absent", value=value, remedy="use --backend tensorrt")
    return check


def check_graph_mode() -> Check:
    """Check that exit decisions can be taken on the GPU; else, the value has the reason."""
    name = "exit decisions on the GPU"
    try:
        runtime = get_runtime()
        from edge.doctor.probe import chain_unsupported_reason

        reason = chain_unsupported_reason(runtime, "graph")
    except UnavailableError as error:
        remedy = f"install the NVIDIA driver and the CUDA toolkit, then {pip_install('cuda13')} (cuda12 on JetPack 6)"
        value = f"unavailable: {one_line(str(error.__cause__ or error))}"
        return Check(name, "problem" if has_nvidia_gpu() else "absent", value, remedy)
    except EngineError as error:
        return Check(name, "problem", f"unavailable: {one_line(str(error))}", "edge doctor --gpu, and report its table")
    if not reason:
        return Check(name, "ok", "available: one CUDA graph and one wait per frame")
    is_old = runtime.driver_version < MIN_DRIVER
    remedy = "update the driver to CUDA 12.5 or later" if is_old else "report it with the GPU and the driver"
    return Check(name, "problem", f"unavailable: {reason}", f"{remedy}; meanwhile, the host checks each exit")


def _toolkit_version(root: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((root / TOOLKIT_VERSION).read_text())["cuda"]["version"])
    return None
