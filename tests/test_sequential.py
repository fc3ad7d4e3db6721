"""Tests by betting keep their false-alarm rate at every moment, and detect changes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.sequential import BettingProcess

ALPHA = 0.01


def first_alarms(values: NDArray[np.bool_], bounds: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return the number of values at each stream's alarm, infinite without one; values have shape (frames, streams)."""
    process, alarms = BettingProcess(values.shape[1:]), np.full(values.shape[1], np.inf)
    with np.errstate(over="ignore"):  # streams go on after their alarm
        for index, (value, bound) in enumerate(zip(values, np.broadcast_to(bounds, len(values)), strict=True)):
            process.add(value, bound)
            alarms[(process.capital >= 1 / ALPHA) & np.isinf(alarms)] = index + 1
    return alarms


def draws(means: NDArray[np.float64] | float, frames: int, streams: int = 500) -> NDArray[np.bool_]:
    """Return random values with these means, one for each frame."""
    return np.random.default_rng(0).random((frames, streams)) < np.broadcast_to(means, frames)[:, None]


@pytest.mark.parametrize("bound", [0.0, 0.001, 0.3, 0.9, 1.0])
def test_no_bet_gains_on_average_at_the_bound(bound: float) -> None:
    """The capital is a martingale at the bound: its mean over the next value is the capital before it."""
    for history in ([], [0], [1, 0, 1], [0] * 1000 + [1]):
        before, after_0, after_1 = BettingProcess(), BettingProcess(), BettingProcess()
        for process, values in ((before, history), (after_0, [*history, 0]), (after_1, [*history, 1])):
            for value in values:
                process.add(value, bound)
        assert min(before.capital, after_0.capital, after_1.capital) > 0
        mean = bound * after_1.capital + (1 - bound) * after_0.capital
        assert mean == pytest.approx(float(before.capital), rel=1e-12)


@pytest.mark.parametrize("bound", [0.005, 0.05, 0.5])
def test_false_alarms_at_the_bound_are_as_rare_as_stated_however_often_one_looks(bound: float) -> None:
    assert np.isfinite(first_alarms(draws(bound, 4000), bound)).mean() <= ALPHA


def test_false_alarms_stay_rare_while_bounds_change() -> None:
    bounds = np.where(np.arange(4000) // 300 % 2, 0.2, 0.01)
    assert np.isfinite(first_alarms(draws(bounds, 4000), bounds)).mean() <= ALPHA


@pytest.mark.parametrize("bound", [0.01, 0.05, 0.2])
def test_twice_the_bound_is_detected(bound: float) -> None:
    frames = round(40 / bound)
    assert np.isfinite(first_alarms(draws(2 * bound, frames), bound)).mean() >= 0.95


def test_a_change_after_a_long_time_within_the_bound_is_detected() -> None:
    before, after, bound = 8000, 2000, 0.05
    means = np.repeat([bound / 5, 2 * bound], [before, after])
    alarms = first_alarms(draws(means, before + after, streams=100), bound)
    assert (alarms > before).all()
    assert np.isfinite(alarms).mean() >= 0.95


def test_gamblers_of_an_array_bet_on_their_own_values() -> None:
    values, bounds = draws(0.3, 50, streams=3), np.array([0.1, 0.3, 0.6])
    together, alone = BettingProcess((3,)), [BettingProcess() for _ in range(3)]
    for row in values:
        together.add(row, bounds)
        for process, value, bound in zip(alone, row, bounds, strict=True):
            process.add(value, bound)
    assert together.capital.tolist() == pytest.approx([float(process.capital) for process in alone])
