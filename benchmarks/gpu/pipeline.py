"""`python -m benchmarks cuda-pipeline`: overlapping frames on the GPU against one frame at a time."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np

from benchmarks.gpu.chain import DURATIONS_US, SHARES
from benchmarks.gpu.segments import Workload, frame_for, timed_engines, timed_workload
from benchmarks.results import command_line, write_result
from edge.console import log
from edge.cuda import get_runtime
from edge.cuda.runtime import Runtime
from edge.cuda.slot import CudaSlot
from edge.doctor.probe import chain_unsupported_reason
from edge.errors import EngineError
from edge.frames.base import Frame
from edge.inference.pipeline import Pipeline
from edge.inference.slot_pool import MIN_SLOTS, SlotGroup, SlotPool
from edge.measure.latency import latency_from_ms
from edge.system import conditions

FRAMES = 5000
LOAD = 0.6
"""Share of the highest throughput at which latency is measured."""
MIN_SAME_EXITS = 0.99
"""Share of frames that must take the same exit as with one slot; networks may round differently at a threshold."""


class PacedSource:
    """Frames at an interval; with an interval of 0, as fast as they are read."""

    is_live = False

    def __init__(self, frames: Sequence[Frame], interval_s: float = 0.0) -> None:
        """Store the frames."""
        self.frames: int | None = len(frames)
        self._frames, self._interval_s = iter(frames), interval_s
        self._due = perf_counter()

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame when it is due."""
        self._due += self._interval_s
        while self._interval_s and perf_counter() < self._due:
            sleep(0)  # a longer sleep is too coarse; without a sleep, the other threads would be blocked
        return next(self._frames, None)

    def close(self) -> None:
        """Do nothing."""


def run_pipeline(output: Path) -> None:
    """Write `cuda_pipeline.json`.

    Raises:
        EngineError: there is no GPU.
    """
    runtime = get_runtime()
    result: dict[str, Any] = {
        "command": command_line(),
        "conditions": conditions() | {"gpu": get_runtime().facts},
        "level": "stepwise" if chain_unsupported_reason(runtime, "graph") else "graph",
        "slots": MIN_SLOTS,
        "timed_kernels": measure_timed_kernels(runtime),
    }
    write_result(output, result)
    log(f"wrote {output}")


def measure_timed_kernels(runtime: Runtime) -> dict[str, Any]:
    """Measure timed segments, whose single block overlaps more easily than a network."""
    exits = len(SHARES)
    workload = timed_workload(timed_engines(runtime, (DURATIONS_US[0],) * exits))
    drawn = np.random.default_rng(0).choice(exits, size=FRAMES, p=SHARES)
    figures = measure(runtime, workload, [frame_for(int(k), exits) for k in drawn])
    return {"what": f"timed kernels of {DURATIONS_US[0]} us, no TensorRT"} | figures


def measure(runtime: Runtime, workload: Workload, frames: list[Frame]) -> dict[str, Any]:
    """Return the throughput of one slot and of several, and the latency at a fixed frame rate.

    Raises:
        EngineError: with several slots, frames take other exits than with one.
    """
    single, several = run_single(runtime, workload, frames), run_pipelined(runtime, workload, frames)
    same = float(np.mean(np.equal(single["exits"], several["exits"])))
    if same < MIN_SAME_EXITS:
        raise EngineError(f"only {same:.1%} of the frames take the same exit as with one slot; report this")
    first = frames[single["exits"].index(0)]  # all frames take one exit, so that latencies are comparable
    interval_s = 1 / (LOAD * several["frames_per_s"])
    latency_ms = run_pipelined(runtime, workload, [first] * len(frames), interval_s)["latency_ms"]
    speed_up = several["frames_per_s"] / single["frames_per_s"]
    log(f"{MIN_SLOTS} slots take {speed_up:.2f} times as many frames per second as one")
    return {
        "waits_a_frame": single["waits_a_frame"],
        "one_slot_frames_per_s": single["frames_per_s"],
        "frames_per_s": several["frames_per_s"],
        "speed_up": speed_up,
        "same_exits": same,
        "latency_ms": latency_ms,
        "p99_over_p50": latency_ms["p99"] / latency_ms["p50"],
    }


def run_single(runtime: Runtime, workload: Workload, frames: Sequence[Frame]) -> dict[str, Any]:
    """Return throughput, exits and waits of a single slot."""
    with warm_slots(runtime, workload, frames[0], 1) as [slot]:
        predict, syncs, started = workload.predictor(slot), slot.syncs, perf_counter()
        exits = [predict(frame).exit_index for frame in frames]
        seconds = perf_counter() - started
        waits = (slot.syncs - syncs) / len(frames)
    return {"frames_per_s": len(frames) / seconds, "exits": exits, "waits_a_frame": waits}


def run_pipelined(
    runtime: Runtime, workload: Workload, frames: Sequence[Frame], interval_s: float = 0.0
) -> dict[str, Any]:
    """Return throughput, latency and exits of overlapping slots."""
    thresholds = np.array(workload.thresholds, dtype=np.float32)
    with warm_slots(runtime, workload, frames[0], MIN_SLOTS) as slots:
        started = perf_counter()
        pool = SlotPool(SlotGroup(slots, lambda: thresholds))
        results = list(Pipeline(PacedSource(frames, interval_s), pool, "all"))
        seconds = perf_counter() - started
    latency = latency_from_ms([result.latency_ms for result in results])
    return {
        "frames_per_s": len(frames) / seconds,
        "latency_ms": {name: getattr(latency, name) for name in ("mean", "p50", "p95", "p99")},
        "exits": [result.exit_index for result in results],
    }


@contextmanager
def warm_slots(runtime: Runtime, workload: Workload, frame: Frame, count: int) -> Iterator[list[CudaSlot]]:
    """Yield slots that have allocated memory and captured graphs for the first frame."""
    with ExitStack() as stack:
        slots = [workload.slot(runtime, "graph") for _ in range(count)]
        for slot in slots:
            stack.callback(slot.close)
            workload.predictor(slot)(frame)
        yield slots
