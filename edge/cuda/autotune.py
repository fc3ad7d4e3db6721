"""The fastest transfer of frames to this GPU and the cheapest wait for it, timed once."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from edge.cuda.base import Sync
from edge.cuda.executor import Executor
from edge.cuda.frame_input import Transfer

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


def autotune(
    transfers: Sequence[Transfer], syncs: Sequence[Sync], open_executor: Callable[[Transfer], Executor]
) -> tuple[Executor, Tuning]:
    """Return the executor of the fastest transfer, and the tuning.

    Args:
        transfers: Transfers to choose from.
        syncs: Ways to wait to choose from, with `spin` first.
        open_executor: Makes the executor of a transfer, with a frame in its memory.
    """
    executors, median_ms = dict[Transfer, Executor](), dict[tuple[Transfer, Sync], float]()
    with ExitStack() as stack:
        for transfer in transfers:
            executor = executors[transfer] = stack.enter_context(closing(open_executor(transfer)))
            for sync in syncs:
                executor.chain.stream.set_sync(sync)
                median_ms[transfer, sync] = median(_frame_ms(executor) for _ in range(FRAMES))
        fastest = min(transfers, key=lambda transfer: median_ms[transfer, syncs[0]])
        best = executors.pop(fastest)
        stack.pop_all()
    for other in executors.values():
        other.close()
    limit_ms = MAX_BLOCKING_COST * median_ms[fastest, syncs[0]]
    *_, sync = (sync for sync in syncs if median_ms[fastest, sync] <= limit_ms)
    return best, Tuning(fastest, sync, {", ".join(names): ms for names, ms in median_ms.items()})


def _frame_ms(executor: Executor) -> float:
    executor.chain.reset(np.zeros(executor.chain.exits - 1, dtype=np.float32))
    started = perf_counter()
    executor.start()
    executor.finish()
    return 1e3 * (perf_counter() - started)
