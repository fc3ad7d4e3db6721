"""State of this machine that measurements depend on: clocks, governors, temperatures, power mode and throttling.

The figures are read from the file system below `root`, without root's permissions; a sensor that is missing or cannot
be read has no entry. Tests read other machines from a tree of their own.
"""

import re
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
THROTTLING_DEVICES = re.compile(r"cpu|gpu|soc|processor|devfreq|throttle", re.IGNORECASE)
"""Cooling devices that limit clocks; the others are fans, displays, and a Jetson's alert of a hot surface."""
JETSON_GPUS = re.compile(r"gpu|\.g[av]1\db$|\.gp10b$")
"""Names of a Jetson's GPU among the devices with variable frequency."""
NVIDIA_SMI_FIELDS = "index,temperature.gpu,clocks.sm,clocks.max.sm,clocks_throttle_reasons.active"
NVIDIA_SMI_TIMEOUT_S = 20.0
HARMLESS_REASONS = 0x1 | 0x2
"""Bits of NVML's throttle reasons that are not throttling: the GPU is idle, or its application clocks are set."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Frequency of processors that share their limits; equal limits are locked clocks, as by `jetson_clocks`."""

    mhz: float
    min_mhz: float | None
    max_mhz: float | None
    governor: str | None


@dataclass(frozen=True, slots=True)
class MachineState:
    """State of the machine at a moment."""

    power_mode: str | None
    """A Jetson's power mode (nvpmodel), else the platform profile of the firmware; None if there is neither."""
    clocks: dict[str, Clock]
    """Clocks of CPUs, by their first CPU, and of GPUs."""
    temperatures_c: dict[str, float]
    throttle_events: dict[str, int]
    """Counters of throttling since the machine was started."""
    limited_by: list[str]
    """Cooling devices and GPUs that limit their clocks at this moment."""
    load_average: float | None
    """Mean number of running processes in the last minute."""


def machine_state(root: Path = ROOT) -> MachineState:
    """Read the state of this machine."""
    gpus = nvidia_gpus() if root == ROOT else []
    temperatures = dict(_thermal_zones(root)) | {gpu.name: gpu.temperature_c for gpu in gpus}
    clocks = {**_cpu_clocks(root), **dict(_jetson_gpu_clocks(root)), **{gpu.name: gpu.clock for gpu in gpus}}
    limited_by = [*_active_cooling_devices(root), *(gpu.name for gpu in gpus if gpu.is_throttled)]
    load_average = _number(root / "proc/loadavg")
    return MachineState(power_mode(root), clocks, temperatures, _throttle_events(root), limited_by, load_average)


def throttling(before: MachineState, after: MachineState) -> list[str]:
    """Return the reasons to believe that clocks were limited between two states; an empty list if there are none."""
    rises = [
        f"{name} rose by {count - before.throttle_events[name]}"
        for name, count in after.throttle_events.items()
        if count > before.throttle_events.get(name, count)
    ]
    return rises + [f"{name} limits clocks" for name in dict.fromkeys([*before.limited_by, *after.limited_by])]


def power_mode(root: Path = ROOT) -> str | None:
    """Return the name of a Jetson's power mode, or of the firmware's platform profile; None if there is neither."""
    selected = re.match(r"pmode:0*(\d+)", first_line(root / "var/lib/nvpmodel/status") or "")
    if selected is None:
        return first_line(root / "sys/firmware/acpi/platform_profile")
    number = selected[1]
    for line in lines(root / "etc/nvpmodel.conf"):
        if named := re.match(rf"<\s*POWER_MODEL\s+ID={number}\s+NAME=(\S+)", line):
            return f"{named[1]} (mode {number})"
    return f"mode {number}"


@dataclass(frozen=True, slots=True)
class NvidiaGpu:
    """State of a discrete NVIDIA GPU."""

    name: str
    temperature_c: float
    clock: Clock
    is_throttled: bool


def nvidia_gpus(command: str = "nvidia-smi") -> list[NvidiaGpu]:
    """Return the discrete NVIDIA GPUs; an empty list without NVIDIA's command."""
    query = [command, f"--query-gpu={NVIDIA_SMI_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in done.stdout.splitlines():
        try:
            index, temperature_c, mhz, max_mhz, reasons = (cell.strip() for cell in line.split(","))
            clock = Clock(float(mhz), None, float(max_mhz), None)
            is_throttled = bool(int(reasons, 16) & ~HARMLESS_REASONS)
            gpus.append(NvidiaGpu(f"gpu{index}", float(temperature_c), clock, is_throttled))
        except ValueError:  # an integrated GPU has "[N/A]" for some
            continue
    return gpus


def _cpu_clocks(root: Path) -> dict[str, Clock]:
    """Return a clock for each group of CPUs with the same governor and limits: their median."""
    groups: dict[tuple[str | None, float | None, float | None], list[tuple[str, float]]] = {}
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"), key=lambda path: int(path.name[6:]))
    for policy in policies:
        khz, *limits = (_number(policy / f"scaling_{name}_freq") for name in ("cur", "min", "max"))
        if khz is not None:
            low, high = (None if limit is None else limit / 1e3 for limit in limits)
            group = groups.setdefault((first_line(policy / "scaling_governor"), low, high), [])
            group.append((policy.name.replace("policy", "cpu"), khz / 1e3))
    return {
        members[0][0]: Clock(statistics.median(mhz for _, mhz in members), low, high, governor)
        for (governor, low, high), members in groups.items()
    }


def _jetson_gpu_clocks(root: Path) -> Iterator[tuple[str, Clock]]:
    """Yield the clock of a Jetson's GPU."""
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        hz, *limits = (_number(device / f"{name}_freq") for name in ("cur", "min", "max"))
        if JETSON_GPUS.search(device.name) and hz is not None:
            low, high = (None if limit is None else limit / 1e6 for limit in limits)
            yield device.name, Clock(hz / 1e6, low, high, first_line(device / "governor"))


def _thermal_zones(root: Path) -> Iterator[tuple[str, float]]:
    """Yield each readable thermal zone and its temperature; some cannot be read while their component is suspended."""
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        millidegrees = _number(zone / "temp")
        if millidegrees is not None:
            yield first_line(zone / "type") or zone.name, millidegrees / 1000


def _active_cooling_devices(root: Path) -> Iterator[str]:
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind = first_line(device / "type") or ""
        if THROTTLING_DEVICES.search(kind) and (_number(device / "cur_state") or 0) > 0:
            yield kind


def _throttle_events(root: Path) -> dict[str, int]:
    """Return the over-current counters of a Jetson, and the thermal counters of x86 CPUs, summed over its cores."""
    counters = {
        path.name.removesuffix("_event_cnt"): path
        for path in sorted((root / "sys/class/hwmon").glob("*/oc*_event_cnt"))
    }
    events = {name: int(value) for name, path in counters.items() if (value := _number(path)) is not None}
    for name in ("core", "package"):
        paths = (root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/thermal_throttle/{name}_throttle_count")
        counts = [value for path in paths if (value := _number(path)) is not None]
        if counts:
            events[f"{name}_throttle_count"] = int(sum(counts))
    return events


def first_line(path: Path) -> str | None:
    """Return the first line of a file of the system; None if it is empty, missing or cannot be read."""
    return next((line.rstrip("\0").strip() for line in lines(path)), "") or None


def lines(path: Path) -> list[str]:
    """Return the lines of a file of the system; an empty list if it is missing or cannot be read."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> float | None:
    """Return the number at the start of a file; None if there is none."""
    try:
        return float((first_line(path) or "").split()[0])
    except (ValueError, IndexError):
        return None
