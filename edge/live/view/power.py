"""Power of a meter's total, second by second."""

from edge.errors import UnavailableError
from edge.measure.power.base import Meter, Sample, Total
from edge.measure.power.find import find_meters


def total_meter() -> Meter | None:
    """Return the first meter of this machine that has a total; None without such a meter."""
    try:
        meters = find_meters().readable
    except UnavailableError:
        return None
    return next((meter for meter in meters if isinstance(meter.total, Total)), None)


class PowerReader:
    """Readings of a meter's total: the sensor's own mean power, or the rise of its energy counter since the last."""

    def __init__(self, meter: Meter | None) -> None:
        """Read a meter; None reads nothing."""
        self._meter = meter
        self._last: tuple[float, float] | None = None

    @property
    def scope(self) -> str | None:
        """Part of the machine that the readings cover; None without a meter."""
        return None if self._meter is None or not isinstance(self._meter.total, Total) else self._meter.total.scope

    def read_w(self) -> float | None:
        """Return the power in watts; None where there is no meter, no value, or no earlier reading."""
        if self._meter is None or not isinstance(self._meter.total, Total):
            return None
        sample = self._meter.read()
        total = _sum(sample, self._meter.total)
        if self._meter.quantity == "power_mw":
            return None if total is None else total / 1e3
        before, self._last = self._last, None if total is None else (sample.time_s, total)
        if before is None or total is None or total < before[1] or sample.time_s <= before[0]:  # counters wrap
            return None
        return (total - before[1]) / 1e3 / (sample.time_s - before[0])


def _sum(sample: Sample, total: Total) -> float | None:
    if not all(rail in sample.values for rail in total.rails):
        return None
    return sum(sample.values[rail] for rail in total.rails)
