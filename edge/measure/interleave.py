"""Interleaved timing: calls take turns, so that a disturbance of the machine affects all of them alike."""

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter_ns
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")


class Timed(NamedTuple, Generic[R]):
    """One call's times and results, item by item."""

    times_ms: NDArray[np.float64]
    results: list[R]


def interleave(calls: Sequence[Callable[[T], R]], items: Iterable[T]) -> list[Timed[R]]:
    """Time every call on every item. Calls take turns at being first, because the first finds the item in no cache."""
    times_ns: list[list[int]] = [[] for _ in calls]
    results: list[list[R]] = [[] for _ in calls]
    order = list(range(len(calls)))
    for item in items:
        order = [*order[1:], order[0]]
        for index in order:
            started_ns = perf_counter_ns()
            result = calls[index](item)
            times_ns[index].append(perf_counter_ns() - started_ns)
            results[index].append(result)
    return [Timed(np.array(times) / 1e6, outputs) for times, outputs in zip(times_ns, results, strict=True)]
