"""INA3221 and INA238 power monitors of Jetson boards, read from hwmon in sysfs.

Units are those of the kernel's hwmon interface: millivolts, milliamperes, microwatts.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from edge.measure.power.base import Meter, RailMeter, ReadRail, Total, Unavailable, readable

NAME = "ina"
INA3221_CHANNELS = (1, 2, 3)
"""Channels with a shunt; channel 7 is the sum of the shunt voltages, which is not a rail."""
NOT_CONNECTED = "NC"
TOTALS = (
    Total(("VIN",), "the board's input"),
    Total(("VDD_IN",), "the module's input"),
    Total(("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), "the module's inputs; no single rail is the total"),
)
"""Totals of Thor, of Orin NX and Nano, and of AGX Orin, where VDDQ_VDD2_1V8AO is part of VIN_SYS_5V0."""


def find_ina(root: Path) -> Meter | Unavailable:
    """Return a meter of all rails of all chips."""
    rails = list(_rails(root))
    if not rails:
        return Unavailable(NAME, "no INA3221 or INA238 in /sys/class/hwmon, as on a Jetson")
    readers = _with_unique_names(rails)
    return readable(RailMeter(NAME, "power_mw", readers, _total(readers)))


def _rails(root: Path) -> Iterator[tuple[str, Path, ReadRail]]:
    """Yield each rail's name, its chip's folder and its reader."""
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        kind = _text(chip / "name")
        if kind == "ina3221":
            for channel in INA3221_CHANNELS:
                label = _text(chip / f"in{channel}_label")
                if label and label != NOT_CONNECTED and (chip / f"curr{channel}_input").exists():
                    yield label, chip, _Ina3221Channel(chip, channel)
        elif kind == "ina238":
            yield _text(chip / "in1_label") or _text(chip / "label") or kind, chip, _Ina238(chip)


class _Ina3221Channel:
    """Reads a channel's voltage and current."""

    def __init__(self, chip: Path, channel: int) -> None:
        self._voltage, self._current = chip / f"in{channel}_input", chip / f"curr{channel}_input"

    def __call__(self) -> float:
        return int(self._voltage.read_text()) * int(self._current.read_text()) / 1e3


class _Ina238:
    """Reads the chip's own product of voltage and current."""

    def __init__(self, chip: Path) -> None:
        self._power = chip / "power1_input"

    def __call__(self) -> float:
        return int(self._power.read_text()) / 1e3


def _with_unique_names(rails: list[tuple[str, Path, ReadRail]]) -> dict[str, ReadRail]:
    """Return the readers by name; equal names of several chips get their chip's."""
    names = [name for name, _, _ in rails]
    return {name if names.count(name) == 1 else f"{name} ({chip.name})": read for name, chip, read in rails}


def _total(rails: Iterable[str]) -> Total | Unavailable:
    known = set(rails)
    for total in TOTALS:
        if known.issuperset(total.rails):
            return total
    return Unavailable("total", f"the total of {', '.join(sorted(known))} is not known; see the rails")


def _text(path: Path) -> str:
    """Return a file's text; an empty string if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
