"""The fastest way to hand frames to this GPU and to wait for it, timed once."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import get_args

import numpy as np

from edge.cuda.executor import Executor
from edge.cuda.frame_input import Reading
from edge.cuda.stream import Waiting

FRAMES = 20
"""Frames to time for each way."""
MAX_BLOCKING_COST = 1.05
"""Threads block, which leaves their core to others, if a frame takes at most so much longer than with spinning."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run frames."""

    reading: Reading
    waiting: Waiting
    median_ms: dict[str, float]
    """Time of a frame that leaves at the first exit, for each way that was tried."""


def fastest_way(readings: Sequence[Reading], open_executor: Callable[[Reading], Executor]) -> Way:
    """Return the fastest way.

    Args:
        readings: Readings to choose from.
        open_executor: Makes the executor of a reading, with a frame in its memory.
    """
    median_ms = dict[tuple[Reading, Waiting], float]()
    for reading in readings:
        with closing(open_executor(reading)) as executor:
            for waiting in get_args(Waiting):
                executor.chain.stream.wait_by(waiting)
                median_ms[reading, waiting] = median(_frame_ms(executor) for _ in range(FRAMES))
    fastest = min(readings, key=lambda reading: median_ms[reading, "spin"])
    may_block = median_ms[fastest, "block"] <= MAX_BLOCKING_COST * median_ms[fastest, "spin"]
    return Way(fastest, "block" if may_block else "spin", {", ".join(way): ms for way, ms in median_ms.items()})


def _frame_ms(executor: Executor) -> float:
    executor.chain.reset(np.zeros(executor.chain.exits - 1, dtype=np.float32))
    started = perf_counter()
    executor.start()
    executor.finish()
    return 1e3 * (perf_counter() - started)
