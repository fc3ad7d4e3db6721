"""Energy per inference: known loads are recovered, faulty sensors have no value, and unsteady machines are reported."""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from scipy import stats

from benchmarks.__main__ import main
from benchmarks.energy_meter import KNOWN_MJ
from benchmarks.synthetic_meter import Sensor
from edge.errors import DataError, UnavailableError
from edge.machine_state import Clock, MachineState
from edge.measure import cycles
from edge.measure.cycles import Cycle, Method, run_cycles
from edge.measure.energy import EnergyResult, energy_from_readings, measure_energy
from edge.measure.power.base import Meters, Quantity, RailMeter, Total, Unavailable
from edge.measure.power.sampler import Sampler
from edge.measure.power.trace import Trace, Window
from edge.measure.rounds import RailRound, estimate
from edge.measure.stability import lag_problems, machine_problems, power_problems
from edge.progress import ignore_progress
from tests.support.commands import call

COOL = MachineState("MAXN", {"gpu": Clock(1300, 1300, 1300, None)}, {"tj": 50.0}, {"oc1": 0}, [], 0.1)
METHOD = Method(cool_down_s=1, idle_s=2, warm_up_s=2, loop_s=4, rounds=2)
CYCLE_S, REST_S = METHOD.cool_down_s + METHOD.idle_s + METHOD.warm_up_s + METHOD.loop_s, 3
INFERENCES = 2000
"""Inferences in each loop, of 2 ms."""


def cycle_at(start_s: float, workload: str) -> Cycle:
    """Return a cycle with the windows of the method, from the first idle window on."""
    load = start_s + 2 + 2
    idle_before, idle_after = Window(start_s, start_s + 2), Window(load + 4 + 1, load + 4 + 1 + 2)
    return Cycle(workload, idle_before, Window(load, load + 4), idle_after, INFERENCES, (COOL, COOL))


def cycles_of(*workloads: str) -> list[Cycle]:
    return [cycle_at(1 + k * CYCLE_S, workload) for k, workload in enumerate(workloads)]


TWICE = cycles_of("a", "b", "b", "a")
ADDED_MW = {"a": 2000.0, "b": 5000.0}


def power_of(run: Sequence[Cycle], drift_mw_per_s: float = 0.0) -> Trace:
    """Return noisy power of 4 W while idle, and more from each warm-up to the end of the loop."""
    times_s = np.arange(0, run[-1].idle_after.end_s + 1, 0.01)
    power_mw = 4000 + drift_mw_per_s * times_s + 20.0 * (np.arange(len(times_s)) // 3 % 2 - 0.5)
    for cycle in run:
        power_mw[(times_s >= cycle.load.start_s - 2) & (times_s <= cycle.load.end_s)] += ADDED_MW[cycle.workload]
    return Trace("power_mw", times_s, power_mw)


def counter_of(power: Trace) -> Trace:
    """Return power as a counter that is updated every 100 ms."""
    energy_mj = np.concatenate(([0.0], np.cumsum(power.values[:-1] * np.diff(power.times_s))))
    return Trace("energy_mj", power.times_s, energy_mj[np.arange(len(energy_mj)) // 10 * 10])


def analyse(
    traces: dict[str, Trace | Unavailable],
    total: Total | Unavailable = Unavailable("total", "unknown"),  # noqa: B008 - immutable
    quantity: Quantity = "power_mw",
    run: Sequence[Cycle] = TWICE,
) -> EnergyResult:
    meter = RailMeter("meter", quantity, dict.fromkeys(traces, lambda: 0.0), total)
    return energy_from_readings(("a", "b"), run, [(meter, traces)], [Unavailable("rapl", "absent")], METHOD)


@pytest.mark.parametrize("drift_mw_per_s", [0.0, 10.0, -10.0])
@pytest.mark.parametrize("quantity", ["power_mw", "energy_mj"])
def test_net_energy_is_that_of_the_load_also_if_the_idle_power_drifts(
    quantity: Quantity, drift_mw_per_s: float
) -> None:
    power = power_of(TWICE, drift_mw_per_s)
    result = analyse({"VDD": power if quantity == "power_mw" else counter_of(power)}, quantity=quantity)
    for name, workload in result.workloads.items():
        rail = workload.rails["meter/VDD"]
        assert workload.latency_ms == 2.0
        assert rail.net_mj.mean == pytest.approx(ADDED_MW[name] * 2e-3, rel=0.005)
        assert rail.gross_mj.mean == pytest.approx((rail.idle_mw + ADDED_MW[name]) * 2e-3, rel=0.005)
        assert not rail.problems
        assert not workload.problems


def test_the_total_is_a_rail_of_its_own_with_its_scope() -> None:
    power = power_of(TWICE)
    traces = {"GPU": power, "CPU": power, "5V": power, "1V8 part of 5V": power}
    result = analyse(traces, Total(("GPU", "CPU", "5V"), "the module's inputs"))
    assert result.rails["meter/total"].scope == "the module's inputs: GPU + CPU + 5V"
    assert result.workloads["a"].rails["meter/total"].net_mj.mean == pytest.approx(3 * 4, rel=0.01)
    assert result.unavailable == (Unavailable("rapl", "absent"),)


def test_a_rail_that_is_the_total_appears_once() -> None:
    power = power_of(TWICE)
    rails = analyse({"VDD_IN": power, "VDD_SOC": power}, Total(("VDD_IN",), "the module's input")).rails
    assert {key: facts.scope for key, facts in rails.items()} == {
        "meter/VDD_IN": "the module's input",
        "meter/VDD_SOC": None,
    }


def test_a_rail_without_a_value_takes_the_total_with_it_and_no_other_rail() -> None:
    power = power_of(TWICE)
    for defective, reason in (
        (Unavailable("CPU", "it vanished"), "it vanished"),
        (replace(power, values=np.full(len(power.values), 4000.0)), "it is frozen: it read 4000 mW"),
    ):
        result = analyse({"GPU": power, "CPU": defective}, Total(("GPU", "CPU"), "all"))
        assert list(result.rails) == ["meter/GPU"]
        reasons = {each.name: each.reason for each in result.unavailable}
        assert reasons["meter/CPU"].startswith(reason)
        assert reasons["meter/total"] == "CPU is part of it, and unavailable"


def test_a_sensor_that_freezes_midway_has_no_value() -> None:
    power = power_of(TWICE)
    values = np.where(power.times_s < TWICE[2].idle_before.start_s, power.values, 4000.0)
    with pytest.raises(UnavailableError, match="meter/VDD: it is frozen"):
        analyse({"VDD": replace(power, values=values)})


def test_a_machine_that_moved_makes_the_workload_invalid() -> None:
    hot = replace(COOL, temperatures_c={"tj": 62.0})
    run = [TWICE[0]._replace(states=(COOL, hot)), *TWICE[1:]]
    workloads = analyse({"VDD": power_of(run)}, run=run).workloads
    assert workloads["a"].problems == ("temperature of tj moved between 50.0 and 62.0 °C",)
    assert workloads["b"].problems == ()


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (replace(COOL, clocks={"gpu": Clock(1200, 1300, 1300, None)}), "clock of gpu moved between 1200 and 1300 MHz"),
        (replace(COOL, throttle_events={"oc1": 3}), "oc1 rose by 3"),
        (replace(COOL, limited_by=["gpu-throttle"]), "gpu-throttle limits clocks"),
        (replace(COOL, temperatures_c={"tj": 54.0}, clocks={"gpu": Clock(1290, 1300, 1300, None)}), None),
    ],
)
def test_moved_clocks_and_throttling_are_problems(state: MachineState, problem: str | None) -> None:
    assert machine_problems([(COOL, COOL), (COOL, state)]) == ([] if problem is None else [problem])


@pytest.mark.parametrize(
    ("rounds", "problem"),
    [
        ([(6000, 4000, 0), (6100, 4000, 150)], None),
        ([(6000, 4000, 0), (6500, 4000, 0)], "rounds differ: 12 to 13 mJ per inference"),
        ([(6000, 4000, 0), (6000, 4000, -300)], "idle power moved by -300 mW, and the load added 2000 mW"),
    ],
)
def test_rounds_that_differ_and_moved_idle_power_are_problems(
    rounds: list[tuple[float, float, float]], problem: str | None
) -> None:
    assert list(power_problems([RailRound(2.0, *each) for each in rounds])) == ([] if problem is None else [problem])


@pytest.mark.parametrize(("interval_s", "problems"), [(0.1, 0), (0.9, 0), (1.5, 1), (None, 1)])
def test_a_sensor_slower_than_the_warm_up_is_a_problem(interval_s: float | None, problems: int) -> None:
    assert len(list(lag_problems(interval_s, 2.0))) == problems


def test_a_rail_that_was_not_read_for_long_is_invalid_and_keeps_its_value() -> None:
    power, load = power_of(TWICE), TWICE[0].load
    was_read = (power.times_s < load.start_s + 1) | (power.times_s > load.start_s + 1.5)
    result = analyse({"VDD": replace(power, times_s=power.times_s[was_read], values=power.values[was_read])})
    invalid, valid = (result.workloads[name].rails["meter/VDD"] for name in "ab")
    [problem] = invalid.problems
    assert problem.startswith("there was no reading for 0.5")
    assert invalid.net_mj.mean == pytest.approx(ADDED_MW["a"] * 2e-3, rel=0.01)
    assert valid.problems == ()


@pytest.mark.parametrize("rounds", [2, 3, 10])
def test_the_interval_over_rounds_is_that_of_students_t(rounds: int) -> None:
    values = np.random.default_rng(0).normal(10, 1, rounds)
    low, high = stats.t.interval(0.95, rounds - 1, loc=values.mean(), scale=stats.sem(values))
    result = estimate(values.tolist())
    assert (result.mean, result.plus_minus) == (pytest.approx(values.mean()), pytest.approx((high - low) / 2, rel=1e-3))


def test_a_single_round_is_refused() -> None:
    with pytest.raises(DataError, match="rounds is 1, which has no spread; give at least 2"):
        Method(rounds=1)


@pytest.mark.parametrize("loop_s", [0.0, -1.0, float("nan")])
def test_a_window_without_a_duration_is_refused(loop_s: float) -> None:
    with pytest.raises(DataError, match=f"loop_s is {loop_s}; give a time above 0"):
        Method(loop_s=loop_s)


def test_a_total_of_unknown_rails_is_refused() -> None:
    with pytest.raises(DataError, match="the total of plug has no rail mians; give some of mains"):
        RailMeter("plug", "power_mw", {"mains": float}, Total(("mians",), "all"))


class Clockwork:
    """A clock that moves only by sleeping and by inferences."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.done: list[str] = []
        monkeypatch.setattr(cycles, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(cycles, "sleep", self.sleep)

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s

    def inference(self, name: str, duration_s: float) -> Callable[[], None]:
        def infer() -> None:
            self.now_s += duration_s
            self.done.append(name)

        return infer


def test_each_loop_lasts_its_time_between_windows_in_which_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clockwork(monkeypatch)
    runs = {"a": clock.inference("a", 0.5), "b": clock.inference("b", 3.0)}
    done = list(run_cycles(runs, METHOD, lambda: COOL, ignore_progress))
    assert [cycle.load.duration_s for cycle in done] == [{"a": 4.0, "b": 6.0}[cycle.workload] for cycle in done]
    assert [cycle.latency_ms for cycle in done] == [{"a": 500, "b": 3000}[cycle.workload] for cycle in done]
    for cycle, following in zip(done, [*done[1:], None], strict=True):
        assert cycle.idle_before.duration_s == cycle.idle_after.duration_s == METHOD.idle_s
        assert cycle.load.start_s - cycle.idle_before.end_s >= METHOD.warm_up_s
        assert cycle.idle_after.start_s - cycle.load.end_s == METHOD.cool_down_s
        assert following is None or following.idle_before == cycle.idle_after


def orders(seed: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Return the order of five workloads in each of four rounds."""
    clock = Clockwork(monkeypatch)
    runs = {name: clock.inference(name, 1.0) for name in "abcde"}
    done = list(run_cycles(runs, replace(METHOD, rounds=4, seed=seed), lambda: COOL, ignore_progress))
    names = [cycle.workload for cycle in done]
    return [tuple(names[k : k + 5]) for k in range(0, 20, 5)]


def test_workloads_take_turns_in_an_order_that_its_seed_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = orders(0, monkeypatch)
    assert all(sorted(order) == list("abcde") for order in rounds)
    assert len(set(rounds)) > 1
    assert orders(0, monkeypatch) == rounds != orders(1, monkeypatch)


class Scripted:
    """A rail that reads these values in turn, and the last of them from then on; None is a failure."""

    def __init__(self, *values: float | None) -> None:
        self.values = list(values)

    def __call__(self) -> float:
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        if value is None:
            raise OSError("No such device")
        return value


def sampled(**rails: Callable[[], float]) -> dict[str, Trace | Unavailable]:
    """Return the readings of these rails by a thread within some samples."""
    enough, count = Event(), itertools.count()
    counting = {**rails, "count": lambda: enough.set() or 0.0 if next(count) == 20 else 0.0}
    with Sampler([RailMeter("meter", "power_mw", counting, Unavailable("total", "unknown"))], 0.001) as sampler:
        enough.wait()
    [(_, traces)] = sampler.readings()
    return dict(traces)


def test_a_rail_that_vanishes_is_unavailable_with_its_last_moment() -> None:
    vanished = sampled(VDD=Scripted(1.0, 2.0, None))["VDD"]
    assert isinstance(vanished, Unavailable)
    assert vanished.reason.startswith("No such device; it was last read 0.0 s after the start")


def test_a_single_failure_leaves_a_gap() -> None:
    traces = sampled(VDD=Scripted(1.0, None, 3.0), VIN=time.monotonic)
    failing, complete = traces["VDD"], traces["VIN"]
    assert isinstance(failing, Trace)
    assert isinstance(complete, Trace)
    assert failing.values.tolist() == [1.0] + [3.0] * (len(complete.values) - 2)
    assert np.abs(complete.times_s - complete.values).max() < 1  # the readings have the time of the monotonic clock


def test_an_error_in_the_code_of_a_meter_is_raised_before_anything_is_measured() -> None:
    meter = RailMeter("meter", "power_mw", {"VDD": lambda: 1 / 0}, Unavailable("total", "unknown"))
    with pytest.raises(ZeroDivisionError):
        measure_energy({"a": lambda: pytest.fail("measured")}, Meters((meter,)))


def test_an_error_in_the_sampling_thread_is_raised_where_its_readings_are_awaited() -> None:
    meter = RailMeter("meter", "power_mw", {"VDD": lambda: 1 / 0}, Unavailable("total", "unknown"))
    with pytest.raises(ZeroDivisionError), Sampler([meter], 0.001) as sampler:
        sampler._thread.join()


def test_a_known_load_is_measured_within_two_percent_while_the_date_jumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = iter(range(0, 10**9, 3600))
    method = Method(cool_down_s=0.3, idle_s=0.8, warm_up_s=0.3, loop_s=1.5, rounds=2)
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    monkeypatch.setattr("benchmarks.energy_meter.METHOD", method)
    monkeypatch.setattr("benchmarks.energy_meter.SENSOR", Sensor(drift_mw_per_s=100))
    output = tmp_path / "meter.json"
    result = call(main, "energy-meter", "--output", output)
    assert result.code == 0, result.stdout
    recorded = json.loads(output.read_text())["meter_error"]
    assert recorded["largest_error"] == max(abs(row["error"]) for row in recorded["workloads"].values()) <= 0.02
    assert list(recorded["workloads"]) == list(KNOWN_MJ)
