"""Readings of one rail over time: mean power in a window, and properties of the sensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.measure.power.base import Quantity


class Window(NamedTuple):
    """A span of the monotonic clock."""

    start_s: float
    end_s: float

    @property
    def middle_s(self) -> float:
        """Moment in the middle of the window."""
        return (self.start_s + self.end_s) / 2

    @property
    def duration_s(self) -> float:
        """Length of the window."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Trace:
    """Readings of one rail, in the order of time."""

    quantity: Quantity
    times_s: NDArray[np.float64]
    values: NDArray[np.float64]
    """Power in mW, or energy since some moment in mJ."""

    def within(self, window: Window) -> "Trace":
        """Return the readings in a window."""
        inside = (self.times_s >= window.start_s) & (self.times_s <= window.end_s)
        return Trace(self.quantity, self.times_s[inside], self.values[inside])

    def changes(self) -> "Trace":
        """Return the first reading of each new value; the very first value may have been there before."""
        changed = np.flatnonzero(np.diff(self.values)) + 1
        return Trace(self.quantity, self.times_s[changed], self.values[changed])


def total_trace(traces: Sequence[Trace]) -> Trace:
    """Return the sum of rails of one meter, interpolated where a reading of one is missing."""
    times_s = traces[0].times_s
    values = [np.interp(times_s, trace.times_s, trace.values) for trace in traces]
    return Trace(traces[0].quantity, times_s, np.sum(values, axis=0))


def mean_power_mw(trace: Trace, window: Window) -> float:
    """Return the mean power in a window.

    Power is integrated by the trapezoidal rule, interpolated at the window's ends. A counter's power is its rise
    between its first and its last step in the window, over the time between them: a step's moment is known to a
    sampling interval, while a reading at the window's end may be a whole update old.
    """
    if trace.quantity == "energy_mj":
        steps = trace.within(window).changes()
        return float((steps.values[-1] - steps.values[0]) / (steps.times_s[-1] - steps.times_s[0]))
    inside = trace.within(window)
    ends = np.interp(window, trace.times_s, trace.values)
    times = np.concatenate(([window.start_s], inside.times_s, [window.end_s]))
    values = np.concatenate(([ends[0]], inside.values, [ends[1]]))
    return float(np.sum(np.diff(times) * (values[1:] + values[:-1]) / 2) / window.duration_s)


def update_interval_s(trace: Trace) -> float | None:
    """Return the median time between changes of the value: the sensor's update interval, if every update changes it.

    None if the value changed less than twice.
    """
    intervals = np.diff(trace.changes().times_s)
    return float(np.median(intervals)) if len(intervals) else None


def defect(trace: Trace, idle_before: Window, load: Window, idle_after: Window) -> str | None:
    """Return the reason why a rail has no value for a load between two idle windows; None if it has."""
    for window in (idle_before, load, idle_after):
        if problem := _window_defect(trace.within(window), window):
            return problem
    whole = trace.within(Window(idle_before.start_s, idle_after.end_s))
    if not len(whole.changes().values):
        return f"it is frozen: it read {whole.values[0]:g} mW throughout idling and load"
    if trace.quantity == "power_mw" and (power_mw := mean_power_mw(trace, load)) <= 0:
        return f"it read {power_mw:g} mW under load: it is not powered or not connected"
    return None


def _window_defect(readings: Trace, window: Window) -> str | None:
    if not len(readings.values):
        return f"it had no reading in {window.duration_s:.2f} s"
    if readings.quantity == "power_mw":
        return None
    if (np.diff(readings.values) < 0).any():
        return "its counter went backwards: it was reset"
    if len(readings.changes().values) < 2:
        return f"its counter did not advance twice in {window.duration_s:.2f} s"
    return None


def longest_gap_s(trace: Trace, window: Window) -> float:
    """Return the longest time in a window without a reading."""
    times_s = trace.within(window).times_s
    return float(np.diff(np.concatenate(([window.start_s], times_s, [window.end_s]))).max())
