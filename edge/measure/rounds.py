"""One rail during one cycle, and means over several."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge.measure.cycles import Cycle
from edge.measure.power.trace import Trace, mean_power_mw

STUDENT_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % quantiles of Student's t distribution, for 1 degree of freedom and more; the last is for all others,
whose quantiles are smaller."""


class RailRound(NamedTuple):
    """Power of one rail during one cycle."""

    latency_ms: float
    power_mw: float
    idle_mw: float
    """Idle power at the middle of the loop, on the line between the idle windows before and after it."""
    idle_shift_mw: float
    """Rise of the idle power between these windows."""

    @property
    def gross_mj(self) -> float:
        """Energy per inference."""
        return self.power_mw * self.latency_ms / 1e3

    @property
    def net_mj(self) -> float:
        """Energy per inference without the idle power."""
        return self.added_mw * self.latency_ms / 1e3

    @property
    def added_mw(self) -> float:
        """Power that the load adds."""
        return self.power_mw - self.idle_mw


def rail_round(cycle: Cycle, trace: Trace) -> RailRound:
    """Return the power of a rail in a cycle."""
    before_mw, after_mw = (mean_power_mw(trace, window) for window in (cycle.idle_before, cycle.idle_after))
    before_s, after_s = cycle.idle_before.middle_s, cycle.idle_after.middle_s
    elapsed = (cycle.load.middle_s - before_s) / (after_s - before_s)
    shift_mw = after_mw - before_mw
    return RailRound(cycle.latency_ms, mean_power_mw(trace, cycle.load), before_mw + shift_mw * elapsed, shift_mw)


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """A mean over rounds, with half its 95 % confidence interval."""

    mean: float
    plus_minus: float


def estimate(rounds: Sequence[float]) -> MeanEstimate:
    """Return the mean of at least two independent rounds, with the interval of Student's t distribution."""
    freedom = min(len(rounds) - 1, len(STUDENT_T_95))
    half = STUDENT_T_95[freedom - 1] * statistics.stdev(rounds) / math.sqrt(len(rounds))
    return MeanEstimate(statistics.fmean(rounds), half)
