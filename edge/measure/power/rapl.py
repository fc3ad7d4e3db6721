"""RAPL energy counters of x86 processors (Running Average Power Limit), read from powercap in sysfs.

Each domain counts microjoules up to `max_energy_range_uj` and starts again at 0:
https://docs.kernel.org/power/powercap/powercap.html. Since the side channel CVE-2020-8694 only root may read them.
"""

from pathlib import Path

from edge.measure.power.base import Meter, RailMeter, Total, Unavailable, readable, reason

NAME = "rapl"
TOTAL_SCOPE = "processor packages and memory; mainboard, disks, fans and power supply are not measured"


def find_rapl(root: Path) -> Meter | Unavailable:
    """Return a meter of all domains, named `package-0`, `package-0/dram` and so on."""
    counters = {}
    for zone in sorted(root.glob("sys/class/powercap/intel-rapl:*")):  # AMD processors have this name, too
        try:
            counters[_domain(zone)] = WrappingCounter(zone)
        except (OSError, ValueError) as error:
            return Unavailable(NAME, reason(error))
    if not counters:
        return Unavailable(NAME, "no domain in /sys/class/powercap, as on x86 with the module intel_rapl_common")

    def restart() -> None:
        for counter in counters.values():
            counter.restart()

    return readable(RailMeter(NAME, "energy_mj", counters, _total(tuple(counters)), restart))


def _domain(zone: Path) -> str:
    """Return the domain's name; that of a subdomain, `intel-rapl:0:1`, begins with its package's."""
    name = (zone / "name").read_text().strip()
    parent, _, _ = zone.name.rpartition(":")
    return name if ":" not in parent else f"{(zone.parent / parent / 'name').read_text().strip()}/{name}"


def _total(domains: tuple[str, ...]) -> Total | Unavailable:
    """Return packages and their memory; cores and graphics are part of a package."""
    packages = [name for name in domains if name.startswith("package-") and "/" not in name]
    if not packages:
        return Unavailable("total", f"no package among the domains {', '.join(domains)}")
    memory = [name for name in domains if name.endswith("/dram")]
    return Total((*packages, *memory), TOTAL_SCOPE)


class WrappingCounter:
    """A domain's energy in millijoules since the first reading of a series, across wraps of the counter."""

    def __init__(self, zone: Path) -> None:
        """Read the counter's range.

        Raises:
            OSError: the range cannot be read.
            ValueError: it is not a number.
        """
        self._path = zone / "energy_uj"
        self._range_uj = int((zone / "max_energy_range_uj").read_text())
        self._last_uj: int | None = None
        self._energy_uj = 0
        self._reset = ""

    def restart(self) -> None:
        """Count from the next reading: after minutes without one, a wrap and a reset look the same."""
        self._last_uj, self._energy_uj, self._reset = None, 0, ""

    def __call__(self) -> float:
        """Read the counter.

        Raises:
            OSError: the counter cannot be read.
            ValueError: it is not a number, or fell without having come near its range: then all fail until `restart`.
        """
        if self._reset:
            raise ValueError(self._reset)
        now_uj = int(self._path.read_text())
        step_uj = 0 if self._last_uj is None else now_uj - self._last_uj
        if step_uj < 0:
            step_uj += self._range_uj
        if step_uj > self._range_uj / 2:
            self._reset = f"the counter went from {self._last_uj} to {now_uj} uJ, which is not a wrap: it was reset"
            raise ValueError(self._reset)
        self._last_uj = now_uj
        self._energy_uj += step_uj
        return self._energy_uj / 1e3
