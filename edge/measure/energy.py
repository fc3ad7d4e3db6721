"""Energy per inference, of workloads that run for seconds; never of a single inference.

Gross energy is the mean power of a loop times the mean time of an inference. Net energy has the idle power subtracted,
interpolated between the idle windows before and after the loop, which removes a linear drift.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edge.errors import UnavailableError
from edge.machine_state import MachineState, machine_state
from edge.measure.cycles import Cycle, Method, Run, run_cycles
from edge.measure.power.base import Meter, Meters, Total, Unavailable
from edge.measure.power.sampler import Readings, Sampler
from edge.measure.power.trace import Trace, defect, total_trace, update_interval_s
from edge.measure.rounds import MeanEstimate, estimate, rail_round
from edge.measure.stability import gap_problems, lag_problems, machine_problems, power_problems
from edge.progress import OnProgress, ignore_progress

TOTAL = "total"
"""Name of the sum of rails that is a meter's total."""


@dataclass(frozen=True, slots=True)
class RailEnergy:
    """Energy per inference of one workload on one rail."""

    gross_mj: MeanEstimate
    net_mj: MeanEstimate
    """Without the power of the idle machine."""
    power_mw: float
    idle_mw: float
    problems: tuple[str, ...]
    """Reasons why the figures are invalid; empty if they are valid."""


@dataclass(frozen=True, slots=True)
class WorkloadEnergy:
    """Energy per inference of one workload."""

    latency_ms: float
    inferences: int
    rails: dict[str, RailEnergy]
    """By the key of the rail in `EnergyResult.rails`."""
    problems: tuple[str, ...]
    """Reasons why the figures of all rails are invalid: the machine's clocks, temperature or throttling."""


@dataclass(frozen=True, slots=True)
class RailFacts:
    """A rail that was measured."""

    meter: str
    rail: str
    scope: str | None
    """The part of the machine that a total covers; None if this is not a total."""
    update_interval_ms: float | None
    """Median time between changes of the value; None if it changed less than twice."""
    readings: int


@dataclass(frozen=True, slots=True)
class EnergyResult:
    """Energy of several workloads, with the method and the rails that were measured."""

    workloads: dict[str, WorkloadEnergy]
    rails: dict[str, RailFacts]
    unavailable: tuple[Unavailable, ...]
    """Meters, rails and totals without a value."""
    method: Method


def measure_energy(
    workloads: Mapping[str, Run],
    meters: Meters,
    method: Method | None = None,
    read_state: Callable[[], MachineState] = machine_state,
    on_progress: OnProgress = ignore_progress,
) -> EnergyResult:
    """Measure the energy of workloads.

    Args:
        workloads: Functions that run one inference each, by name.
        meters: Meters to read meanwhile; `find_meters` returns those of this machine.
        method: Durations and repetitions.
        read_state: Reads clocks, temperatures and throttling.
        on_progress: Receives the progress.

    Raises:
        UnavailableError: no rail gave usable readings.
    """
    method = method or Method()
    for meter in meters.readable:
        meter.read()  # an error in its code is raised now, and not after minutes
    with Sampler(meters.readable, method.sample_interval_s) as sampler:
        cycles = list(run_cycles(workloads, method, read_state, on_progress))
    return energy_from_readings(list(workloads), cycles, sampler.readings(), meters.unavailable, method)


def energy_from_readings(
    workloads: Sequence[str],
    cycles: Sequence[Cycle],
    readings: Sequence[tuple[Meter, Readings]],
    unavailable: Sequence[Unavailable],
    method: Method,
) -> EnergyResult:
    """Return the energy of workloads from their cycles and the readings of the meters.

    Raises:
        UnavailableError: no rail gave usable readings.
    """
    rails: dict[str, RailFacts] = {}
    traces: dict[str, Trace] = {}
    missing = list(unavailable)
    for meter, by_rail in readings:
        for rail, trace in _usable(meter, by_rail, cycles).items():
            key = f"{meter.name}/{rail}"
            if isinstance(trace, Unavailable):
                missing.append(Unavailable(key, trace.reason))
            else:
                traces[key], rails[key] = trace, _facts(meter, rail, trace)
    if not traces:
        raise UnavailableError(f"no rail gave usable readings: {'; '.join(map(str, missing))}")
    measured = {
        name: _workload_energy([cycle for cycle in cycles if cycle.workload == name], traces, method)
        for name in workloads
    }
    return EnergyResult(measured, rails, tuple(missing), method)


def _usable(meter: Meter, traces: Readings, cycles: Sequence[Cycle]) -> Readings:
    """Return the meter's rails, and their sum if no single rail is the total; with readings in every cycle or none."""
    rails = {name: _checked(name, trace, cycles) for name, trace in traces.items()}
    if isinstance(meter.total, Total) and len(meter.total.rails) == 1:
        return rails
    return {**rails, TOTAL: _sum(meter.total, rails)}


def _checked(name: str, trace: Trace | Unavailable, cycles: Sequence[Cycle]) -> Trace | Unavailable:
    if isinstance(trace, Unavailable):
        return trace
    for cycle in cycles:
        if problem := defect(trace, cycle.idle_before, cycle.load, cycle.idle_after):
            return Unavailable(name, problem)
    return trace


def _sum(total: Total | Unavailable, rails: Readings) -> Trace | Unavailable:
    if isinstance(total, Unavailable):
        return total
    parts = []
    for name in total.rails:
        part = rails[name]
        if isinstance(part, Unavailable):
            return Unavailable(TOTAL, f"{name} is part of it, and unavailable")
        parts.append(part)
    return total_trace(parts)


def _facts(meter: Meter, rail: str, trace: Trace) -> RailFacts:
    scope = None
    if isinstance(meter.total, Total) and meter.total.rails == (rail,):
        scope = meter.total.scope
    elif isinstance(meter.total, Total) and rail == TOTAL:
        scope = f"{meter.total.scope}: {' + '.join(meter.total.rails)}"
    interval_s = update_interval_s(trace)
    return RailFacts(meter.name, rail, scope, None if interval_s is None else interval_s * 1e3, len(trace.values))


def _workload_energy(cycles: Sequence[Cycle], traces: Mapping[str, Trace], method: Method) -> WorkloadEnergy:
    return WorkloadEnergy(
        latency_ms=statistics.fmean(cycle.latency_ms for cycle in cycles),
        inferences=sum(cycle.inferences for cycle in cycles),
        rails={key: _rail_energy(cycles, trace, method) for key, trace in traces.items()},
        problems=tuple(machine_problems([cycle.states for cycle in cycles])),
    )


def _rail_energy(cycles: Sequence[Cycle], trace: Trace, method: Method) -> RailEnergy:
    rounds = [rail_round(cycle, trace) for cycle in cycles]
    return RailEnergy(
        gross_mj=estimate([each.gross_mj for each in rounds]),
        net_mj=estimate([each.net_mj for each in rounds]),
        power_mw=statistics.fmean(each.power_mw for each in rounds),
        idle_mw=statistics.fmean(each.idle_mw for each in rounds),
        problems=(
            *lag_problems(update_interval_s(trace), method.warm_up_s),
            *gap_problems(cycles, trace),
            *power_problems(rounds),
        ),
    )
