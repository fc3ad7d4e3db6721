"""The fastest transfer of frames to this GPU and the cheapest wait for it, timed once."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import get_args

import numpy as np

from edge.cuda.executor import Executor
from edge.cuda.frame_input import Transfer
from edge.cuda.stream import Sync

FRAMES = 20
"""Frames to time for each combination."""
MAX_BLOCKING_COST = 1.05
"""Threads block, which leaves their core to others, if a frame takes at most so much longer than with spinning."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How frames are transferred and waited for."""

    transfer: Transfer
    sync: Sync
    median_ms: dict[str, float]
    """Time of a frame that leaves at the first exit, for each combination of transfer and sync that was tried."""


def autotune(transfers: Sequence[Transfer], open_executor: Callable[[Transfer], Executor]) -> Tuning:
    """Return the fastest combination.

    Args:
        transfers: Transfers to choose from.
        open_executor: Makes the executor of a transfer, with a frame in its memory.
    """
    median_ms = dict[tuple[Transfer, Sync], float]()
    for transfer in transfers:
        with closing(open_executor(transfer)) as executor:
            for sync in get_args(Sync):
                executor.chain.stream.set_sync(sync)
                median_ms[transfer, sync] = median(_frame_ms(executor) for _ in range(FRAMES))
    fastest = min(transfers, key=lambda transfer: median_ms[transfer, "spin"])
    may_block = median_ms[fastest, "block"] <= MAX_BLOCKING_COST * median_ms[fastest, "spin"]
    return Tuning(fastest, "block" if may_block else "spin", {", ".join(names): ms for names, ms in median_ms.items()})


def _frame_ms(executor: Executor) -> float:
    executor.chain.reset(np.zeros(executor.chain.exits - 1, dtype=np.float32))
    started = perf_counter()
    executor.start()
    executor.finish()
    return 1e3 * (perf_counter() - started)
