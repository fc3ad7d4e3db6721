"""Interleaved timing: calls take turns in random order, so that disturbances of the machine affect all alike."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import perf_counter_ns
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")

LEADING_ITEMS = 3
"""Untimed items at the start of a turn."""


@dataclass(frozen=True, slots=True)
class Timed(Generic[R]):
    """One call's times and results, item by item."""

    times_ms: NDArray[np.float64]
    results: list[R]


def interleave(
    calls: Sequence[Callable[[T], R]], items: Iterable[T], seed: int = 0, *, block: int = 1, leading: int = 0
) -> list[Timed[R]]:
    """Time every call on every item.

    For each block of items the calls have a new random order, because a call finds the caches as its predecessor left
    them, and the first finds the item in none.

    Args:
        calls: The calls to time.
        items: The arguments of each call.
        seed: Seed of the orders.
        block: Items that a call takes one after the other in its turn.
        leading: Items of the block that also run beforehand, untimed: calls that share weights would find them in the
            caches more often than others.
    """
    times_ns: list[list[int]] = [[] for _ in calls]
    results: list[list[R]] = [[] for _ in calls]
    order, generator = list(range(len(calls))), random.Random(seed)  # noqa: S311 - an order is no secret
    remaining = iter(items)
    while turn := list(islice(remaining, block)):
        generator.shuffle(order)
        for index in order:
            for item in turn[:leading]:
                calls[index](item)
            for item in turn:
                started_ns = perf_counter_ns()
                result = calls[index](item)
                times_ns[index].append(perf_counter_ns() - started_ns)
                results[index].append(result)
    return [Timed(np.array(times) / 1e6, outputs) for times, outputs in zip(times_ns, results, strict=True)]


def interleave_streams(
    calls: Sequence[Callable[[T], object]], items: Sequence[T], turns: int, seed: int = 0
) -> NDArray[np.float64]:
    """Time calls in turns of all items one after the other, as in a stream that no other call interrupts.

    The first items of a turn also run beforehand, untimed: other calls have used the processor's caches meanwhile.

    Returns:
        Mean time of an item in milliseconds, shape (calls, turns).
    """

    def take_turn(call: Callable[[T], object], _: int) -> float:
        for item in items[:LEADING_ITEMS]:
            call(item)
        started_ns = perf_counter_ns()
        for item in items:
            call(item)
        return (perf_counter_ns() - started_ns) / 1e6 / len(items)

    timed = interleave([partial(take_turn, call) for call in calls], range(turns), seed)
    return np.array([series.results for series in timed])
