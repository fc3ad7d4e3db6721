"""Mean power from readings, and defects of sensors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.measure.power.base import Quantity
from edge.measure.power.trace import Trace, Window, defect, mean_power_mw, total_trace, update_interval_s

IDLE_BEFORE, LOAD, IDLE_AFTER = Window(0.0, 1.0), Window(1.5, 3.0), Window(3.5, 4.5)


def trace_of(values: object, quantity: Quantity = "power_mw", interval_s: float = 0.01) -> Trace:
    array = np.array(values, dtype=np.float64)
    return Trace(quantity, np.arange(len(array)) * interval_s, array)


def stepped(times_s: np.ndarray, interval_s: float) -> np.ndarray:
    """Round times down to a sensor's updates."""
    return np.floor(times_s / interval_s + 1e-9) * interval_s


@given(start_s=st.floats(0, 2), duration_s=st.floats(0.5, 2), slope=st.floats(-500, 500))
def test_linear_power_is_integrated_exactly_wherever_the_window_begins(
    start_s: float, duration_s: float, slope: float
) -> None:
    trace = trace_of(5000 + slope * np.arange(500) * 0.01)
    window = Window(start_s, start_s + duration_s)
    assert mean_power_mw(trace, window) == pytest.approx(5000 + slope * (start_s + duration_s / 2))


def test_uneven_readings_count_by_their_time() -> None:
    times_s = np.array([0.0, 0.1, 0.2, 1.0])
    trace = Trace("power_mw", times_s, np.array([1000.0, 1000.0, 3000.0, 3000.0]))
    assert mean_power_mw(trace, Window(0.0, 1.0)) == pytest.approx(0.1 * 1000 + 0.1 * 2000 + 0.8 * 3000)


@pytest.mark.parametrize("start_s", [0.0, 0.03, 0.099])
def test_a_counter_of_rare_updates_gives_the_power_wherever_the_window_begins(start_s: float) -> None:
    times_s = np.arange(600) * 0.01
    trace = Trace("energy_mj", times_s, 2500 * stepped(times_s, 0.1))
    assert mean_power_mw(trace, Window(start_s, start_s + 5)) == pytest.approx(2500)


@pytest.mark.parametrize("interval_s", [0.02, 0.1, 0.5])
def test_the_update_interval_is_that_of_the_sensor_and_not_of_the_readings(interval_s: float) -> None:
    times_s = np.arange(500) * 0.01
    assert update_interval_s(trace_of(stepped(times_s, interval_s))) == pytest.approx(interval_s)


def test_a_value_that_changes_once_has_no_update_interval() -> None:
    assert update_interval_s(trace_of([5.0] * 10 + [6.0] * 10)) is None


def test_the_total_is_the_sum_of_its_rails() -> None:
    assert total_trace([trace_of([1, 2, 3]), trace_of([10, 20, 30])]).values.tolist() == [11, 22, 33]


def test_the_total_interpolates_a_missing_reading_of_a_rail() -> None:
    complete, incomplete = trace_of([1, 2, 3]), trace_of([10, 20, 30])
    incomplete = Trace("power_mw", incomplete.times_s[::2], incomplete.values[::2])
    for traces in ([complete, incomplete], [incomplete, complete]):
        total = total_trace(traces)
        assert total.values.tolist() == (11 * (1 + total.times_s / 0.01)).tolist()


def noisy(level_mw: float = 5000) -> np.ndarray:
    return level_mw + 40.0 * (np.arange(500) // 7 % 2)


def gated() -> np.ndarray:
    """Return the power of a rail that is off but for the load."""
    times_s = np.arange(500) * 0.01
    return np.where((times_s > 1.2) & (times_s < 3.1), noisy(), 0.0)


@pytest.mark.parametrize("values", [noisy(), gated(), 5000 + 40.0 * (np.arange(500) > 200)])
def test_a_sensor_whose_value_moves_has_no_defect(values: np.ndarray) -> None:
    assert defect(trace_of(values), IDLE_BEFORE, LOAD, IDLE_AFTER) is None


@pytest.mark.parametrize(
    ("values", "quantity", "reason"),
    [
        (np.full(500, 5000.0), "power_mw", "it is frozen: it read 5000 mW throughout idling and load"),
        (np.zeros(500), "power_mw", "it is frozen: it read 0 mW"),
        (np.where(np.arange(500) < 120, noisy(), 0.0), "power_mw", "it read 0 mW under load"),
        (np.arange(500) // 200, "energy_mj", "its counter did not advance twice in 1.00 s"),
        (np.arange(500) % 250, "energy_mj", "its counter went backwards"),
        (noisy()[:300], "power_mw", "it had no reading in 1.00 s"),
    ],
)
def test_a_defective_sensor_has_a_reason(values: np.ndarray, quantity: Quantity, reason: str) -> None:
    found = defect(trace_of(values, quantity), IDLE_BEFORE, LOAD, IDLE_AFTER)
    assert found is not None
    assert found.startswith(reason)
