"""Checks of the board: its system, power mode, clocks, memory and disk."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from edge.doctor.check import Check
from edge.doctor.jetpack import MIN_TENSORRT, RECOMMENDED, is_jetson, jetpack_release, l4t_version
from edge.errors import EdgeError
from edge.machine_state import ROOT, Clock, lines, machine_state, power_mode
from edge.storage import cache_root
from edge.system import board_model, cpu_name, usable_cores

GIB = 2**30
MIN_MEMORY = 2 * GIB
"""Memory and swap to build engines: TensorRT takes more than one gibibyte."""
MIN_DISK, COMFORTABLE_DISK = GIB // 4, 2 * GIB
"""Free space for the engines of one bundle, and of several."""
ADD_SWAP = (
    "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile, or "
    "close other programs"
)


def check_board(root: Path = ROOT) -> list[Check]:
    """Check the board, its system and its resources."""
    board = f"{board_model(root)}, " if board_model(root) else ""
    machine = Check("machine", "ok", f"{board}{cpu_name(root)}, {usable_cores()} cores, {platform.machine()}")
    return [machine, *_jetpack(root), _python(root), *_memory(root), check_disk(), *_power_mode(root)]


def check_clocks(root: Path = ROOT) -> list[Check]:
    """Check that clocks are fixed, as measurements need them; an empty list where they cannot be read."""
    clocks = machine_state(root).clocks
    varying = [name for name, clock in clocks.items() if not _is_fixed(clock)]
    if not clocks:
        return []
    shown = ", ".join(f"{name} {clock.mhz:.0f} MHz" for name, clock in clocks.items())
    if varying:
        remedy = "sudo jetson_clocks" if is_jetson(root) else "sudo cpupower frequency-set --governor performance"
        return [Check("clocks", "warning", f"{shown}; {', '.join(varying)} vary", f"{remedy}, before you measure")]
    return [Check("clocks", "ok", f"{shown}; fixed")]


def _is_fixed(clock: Clock) -> bool:
    return clock.governor == "performance" or (clock.max_mhz is not None and clock.min_mhz == clock.max_mhz)


def _jetpack(root: Path) -> Iterator[Check]:
    if not is_jetson(root):
        return
    release, l4t = jetpack_release(root), l4t_version(root) or "unknown"
    if release is None:
        remedy = "compare the versions below with NVIDIA's release notes; `edge verify` shows if engines are right"
        yield Check("JetPack", "warning", f"unknown (L4T {l4t})", remedy)
    elif release.is_supported:
        value = f"{release.version} (L4T {l4t}): Python {release.python}, CUDA {release.cuda}, TensorRT"
        yield Check("JetPack", "ok", f"{value} {release.tensorrt}")
    else:
        value = f"{release.version} (L4T {l4t}) has TensorRT {release.tensorrt}; bundles need {MIN_TENSORRT}"
        yield Check("JetPack", "problem", value, f"flash {RECOMMENDED} with NVIDIA's SDK Manager")


def _python(root: Path) -> Check:
    version, release = platform.python_version(), jetpack_release(root)
    if release is None or version.startswith(f"{release.python}."):
        return Check("Python", "ok", f"{version}, {sys.executable}")
    value = f"{version}; TensorRT and OpenCV of JetPack {release.version} are for Python {release.python}"
    return Check("Python", "problem", value, "/usr/bin/python3 -m venv --system-site-packages ~/early-exit")


def _memory(root: Path) -> Iterator[Check]:
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB$", "\n".join(lines(root / "proc/meminfo")), re.MULTILINE))
    total, available, swap, free_swap = (
        int(fields.get(name, 0)) * 1024 for name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    )
    if not total:
        return
    value = f"{available / GIB:.1f} of {total / GIB:.1f} GiB free, {swap / GIB:.1f} GiB of swap"
    if available + free_swap < MIN_MEMORY:
        yield Check("memory", "warning", value, ADD_SWAP)
    else:
        yield Check("memory", "ok", value)


def check_disk() -> Check:
    """Check the folder of engines and the space in it."""
    name, remedy = "engine cache", "set EDGE_CACHE to a folder that this user can write"
    try:
        root = cache_root()
    except EdgeError as error:
        return Check(name, "problem", str(error), remedy)
    existing = next(folder for folder in (root.absolute(), *root.absolute().parents) if os.path.lexists(folder))
    if not existing.is_dir():
        return Check(name, "problem", f"{root}: {existing} is not a folder", remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check(name, "problem", f"{root}: no permission to write {existing}", remedy)
    free = shutil.disk_usage(existing).free
    value, remedy = f"{root}, {free / GIB:.1f} GiB free", "remove files, or set EDGE_CACHE to a folder on another disk"
    if free < COMFORTABLE_DISK:
        return Check(name, "problem" if free < MIN_DISK else "warning", value, remedy)
    return Check(name, "ok", value)


def _power_mode(root: Path) -> Iterator[Check]:
    if mode := power_mode(root):
        yield Check("power mode", "ok", mode)
    elif is_jetson(root):
        yield Check("power mode", "absent", "unknown", "sudo nvpmodel -q")
