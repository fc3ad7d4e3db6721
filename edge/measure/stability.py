"""Reasons to distrust a measurement: the machine or its power moved while it ran."""

from collections.abc import Iterator, Sequence

from edge.machine_state import MachineState, throttling
from edge.measure.cycles import Cycle
from edge.measure.power.trace import Trace, longest_gap_s
from edge.measure.rounds import RailRound

MAX_CLOCK_RANGE = 0.05
"""Largest difference between clocks of loops of one workload, relative to the highest."""
MAX_TEMPERATURE_RANGE_C = 5.0
MAX_ENERGY_RANGE = 0.05
"""Largest difference between rounds, relative to the highest."""
MAX_IDLE_SHIFT = 0.1
"""Largest change of idle power during a cycle, relative to the power that the load adds."""
MAX_GAP = 0.1
"""Longest time without a reading, relative to its window."""


def machine_problems(states: Sequence[tuple[MachineState, MachineState]]) -> list[str]:
    """Return the reasons that the machine's states during one workload's loops give, without repetition."""
    throttled = [reason for first, last in states for reason in throttling(first, last)]
    every_state = [state for pair in states for state in pair]
    return list(dict.fromkeys([*throttled, *_clock_problems(every_state), *_temperature_problems(every_state)]))


def _clock_problems(states: Sequence[MachineState]) -> Iterator[str]:
    for name in states[0].clocks:
        mhz = [state.clocks[name].mhz for state in states if name in state.clocks]
        if max(mhz) - min(mhz) > MAX_CLOCK_RANGE * max(mhz):
            yield f"clock of {name} moved between {min(mhz):.0f} and {max(mhz):.0f} MHz"


def _temperature_problems(states: Sequence[MachineState]) -> Iterator[str]:
    for name in states[0].temperatures_c:
        celsius = [state.temperatures_c[name] for state in states if name in state.temperatures_c]
        if max(celsius) - min(celsius) > MAX_TEMPERATURE_RANGE_C:
            yield f"temperature of {name} moved between {min(celsius):.1f} and {max(celsius):.1f} °C"


def lag_problems(update_interval_s: float | None, warm_up_s: float) -> Iterator[str]:
    """Yield a reason where a sensor may still show the power from before the warm-up when the loop begins."""
    if update_interval_s is None or update_interval_s > warm_up_s / 2:
        changes = "once" if update_interval_s is None else f"every {update_interval_s:.2g} s"
        yield f"the reading changed only {changes}, and the warm-up lasts {warm_up_s:g} s"


def gap_problems(cycles: Sequence[Cycle], trace: Trace) -> Iterator[str]:
    """Yield a reason where a window had no reading for long, as on a machine that was suspended or very busy."""
    for cycle in cycles:
        for window in (cycle.idle_before, cycle.load, cycle.idle_after):
            gap_s = longest_gap_s(trace, window)
            if gap_s > MAX_GAP * window.duration_s:
                yield f"there was no reading for {gap_s:.2f} s of a window of {window.duration_s:.2f} s"
                return


def power_problems(rounds: Sequence[RailRound]) -> Iterator[str]:
    """Yield the reasons that a rail's rounds give."""
    energies_mj = [each.gross_mj for each in rounds]
    low, high = min(energies_mj), max(energies_mj)
    if high - low > MAX_ENERGY_RANGE * high:
        yield f"rounds differ: {low:.4g} to {high:.4g} mJ per inference"
    worst = max(rounds, key=lambda each: abs(each.idle_shift_mw) - MAX_IDLE_SHIFT * abs(each.added_mw))
    if abs(worst.idle_shift_mw) > MAX_IDLE_SHIFT * abs(worst.added_mw):
        yield f"idle power moved by {worst.idle_shift_mw:+.0f} mW, and the load added {worst.added_mw:.0f} mW"
