"""The fastest transfer of frames to this GPU and the cheapest wait for it, timed once."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import product
from statistics import median
from time import perf_counter

import numpy as np

from edge.cuda.base import Sync
from edge.cuda.executor import Executor
from edge.cuda.frame_input import Transfer

WARM_UP_FRAMES, FRAMES = 5, 20
"""Frames of each combination that are not counted, and that are timed."""
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
    executors = dict[Transfer, Executor]()
    with ExitStack() as stack:
        for transfer in transfers:
            executors[transfer] = stack.enter_context(closing(open_executor(transfer)))
        tuning = choose(time_in_turns(executors, syncs))
        best = executors.pop(tuning.transfer)
        stack.pop_all()
    for other in executors.values():
        other.close()
    return best, tuning


def time_in_turns(executors: Mapping[Transfer, Executor], syncs: Sequence[Sync]) -> dict[tuple[Transfer, Sync], float]:
    """Return the median time of a frame in ms for each combination of transfer and sync.

    The combinations take turns frame by frame, so that clocks that rise meanwhile favour none.
    """
    times_ms: dict[tuple[Transfer, Sync], list[float]] = {each: [] for each in product(executors, syncs)}
    for _ in range(WARM_UP_FRAMES + FRAMES):
        for (transfer, sync), frames_ms in times_ms.items():
            executors[transfer].chain.stream.set_sync(sync)
            frames_ms.append(_frame_ms(executors[transfer]))
    return {each: median(frames_ms[WARM_UP_FRAMES:]) for each, frames_ms in times_ms.items()}


def choose(median_ms: Mapping[tuple[Transfer, Sync], float]) -> Tuning:
    """Return the transfer that is fastest with the first sync, and the last sync that hardly costs more there."""
    first = next(sync for _, sync in median_ms)
    fastest_ms, fastest = min((ms, transfer) for (transfer, sync), ms in median_ms.items() if sync == first)
    limit_ms = MAX_BLOCKING_COST * fastest_ms
    *_, sync = (sync for (transfer, sync), ms in median_ms.items() if transfer == fastest and ms <= limit_ms)
    return Tuning(fastest, sync, {", ".join(names): ms for names, ms in median_ms.items()})


def _frame_ms(executor: Executor) -> float:
    executor.chain.reset(np.zeros(executor.chain.exits - 1, dtype=np.float32))
    started = perf_counter()
    executor.start()
    executor.finish()
    return 1e3 * (perf_counter() - started)
