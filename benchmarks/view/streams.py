"""Alarms of many simulated streams at once."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.live.drift import FALSE_ALARM_RATE
from edge.sequential import BettingProcess


def first_alarms(values: Iterable[NDArray[np.bool_]], bounds: ArrayLike) -> NDArray[np.float64]:
    """Return the audited frames until each stream's alarm, infinite without one.

    Args:
        values: Values of all streams at each frame, shape (streams,), or (streams, means) for means tested together.
        bounds: Bounds of the means.
    """
    alarms: NDArray[np.float64] = np.empty(0)
    process: BettingProcess | None = None
    with np.errstate(over="ignore"):  # streams continue after their alarm
        for index, value in enumerate(values):
            if process is None:
                process, alarms = BettingProcess(value.shape), np.full(len(value), np.inf)
            process.add(value, bounds)
            capital = process.capital.reshape(len(value), -1).mean(axis=1)
            alarms[(capital >= 1 / FALSE_ALARM_RATE) & np.isinf(alarms)] = index + 1
    return alarms
