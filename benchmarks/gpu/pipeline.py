"""`python -m benchmarks cuda-pipeline`: frames of consecutive slots overlapping on the GPU, against one at a time."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np

from benchmarks.gpu import why_no_torch
from benchmarks.gpu.chain import DURATIONS_US, SHARES
from benchmarks.gpu.segments import frame_for, timed_classifier, timed_engines
from benchmarks.gpu.ways import answers_of
from benchmarks.results import command_line, write_result
from edge.console import log, print_table
from edge.cuda import get_runtime
from edge.cuda.identity import device_facts
from edge.cuda.runtime import Runtime
from edge.errors import EngineError
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.inference.pipeline import FEWEST_SLOTS, Pipeline
from edge.measure.latency import latency_from_ms
from edge.system import conditions

FRAMES = 5000
LOAD = 0.6
"""Share of the highest throughput at which latency is measured."""
RUNS = ("timed_kernels", "torch_network")
IN_ORDER = 0.99
"""Share of exits that must be those of one slot; networks may round otherwise at a threshold."""


class Repeated:
    """A source that has its frames already, at a pace or as fast as they are taken."""

    is_live = False

    def __init__(self, frames: list[Frame], every_s: float = 0.0) -> None:
        """Hold frames."""
        self.frames: int | None = len(frames)
        self._frames, self._every_s = iter(frames), every_s
        self._due = perf_counter()

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame when it is due."""
        self._due = max(self._due + self._every_s, perf_counter() if not self._every_s else 0.0)
        while perf_counter() < self._due:
            sleep(0)  # longer is too coarse; not at all keeps the other threads from running
        return next(self._frames, None)

    def close(self) -> None:
        """Nothing to let go of."""


def run_pipeline(output: Path) -> None:
    """Write `cuda_pipeline.json`.

    Raises:
        EngineError: there is no GPU.
    """
    runtime = get_runtime()
    gpu = device_facts()
    result: dict[str, Any] = {
        "command": command_line(),
        "conditions": conditions() | {"gpu": gpu},
        "level": runtime.level,
        "slots": FEWEST_SLOTS,
        "timed_kernels": on_timed_kernels(runtime),
    }
    write_result(output, result)  # kept, whatever torch does in this process
    result["torch_network"] = on_a_torch_network(runtime)
    write_result(output, result)
    columns = ("what ran", "one slot", f"{FEWEST_SLOTS} slots", "speed-up", "p99 over p50")
    print_table(f"pipeline on {gpu['gpu']}", columns, [cells(result[name]) for name in RUNS])
    log(f"all of it is in {output}")


def on_timed_kernels(runtime: Runtime) -> dict[str, Any]:
    """Return what segments of one block each gain, which overlap more easily than a network's."""
    exits = len(SHARES)
    engines = timed_engines(runtime, (DURATIONS_US[0],) * exits)
    drawn = np.random.default_rng(0).choice(exits, size=FRAMES, p=SHARES)
    frames = [frame_for(int(k), exits) for k in drawn]
    found = measured(timed_classifier(runtime, engines, runtime.level), frames)
    return {"what": f"timed kernels of {DURATIONS_US[0]} us, no TensorRT"} | found


def on_a_torch_network(runtime: Runtime) -> dict[str, Any] | str:
    """Return what a small network gains, or why it was not run."""
    if why := why_no_torch():
        return f"not run: {why}"
    from benchmarks.gpu.examples import example
    from benchmarks.gpu.torch_segments import torch_classifier
    from benchmarks.gpu.users import DEVICE, NETWORKS, what_runs

    backbone, size = next(iter(NETWORKS.items()))
    one = example(backbone, size, SHARES, DEVICE)
    found = measured(torch_classifier(runtime, one.network, one.spec, one.thresholds), one.frames(FRAMES))
    return {"what": f"{backbone} {size}x{size}: {what_runs()}"} | found


def measured(classifier: Classifier, frames: list[Frame]) -> dict[str, Any]:
    """Return the throughput of one slot and of several, and the latency of one exit at a pace.

    Raises:
        EngineError: answers of several slots are not in the order of the frames.
    """
    alone, together = one_at_a_time(classifier, frames), piped(classifier, frames, 0.0)
    same = float(np.mean(np.equal(alone["exits"], together["exits"])))
    if same < IN_ORDER:
        raise EngineError(f"only {same:.1%} of the pipeline's answers are those of one slot; report this")
    first = frames[alone["exits"].index(0)]  # of one exit: else latencies differ by what was asked
    latency_ms = piped(classifier, [first] * len(frames), 1 / (LOAD * together["frames_per_s"]))["latency_ms"]
    return {
        "waits_a_frame": alone["waits_a_frame"],
        "one_slot_frames_per_s": alone["frames_per_s"],
        "frames_per_s": together["frames_per_s"],
        "speed_up": together["frames_per_s"] / alone["frames_per_s"],
        "same_exits": same,
        "latency_ms": latency_ms,
        "p99_over_p50": latency_ms["p99"] / latency_ms["p50"],
    }


def one_at_a_time(classifier: Classifier, frames: list[Frame]) -> dict[str, Any]:
    """Return throughput, exits and waits where each frame is waited for before the next is sent."""
    with ready_slots(classifier, frames[0], 1) as [slot]:
        answer, before, started = answers_of(slot), slot.syncs, perf_counter()
        exits = [answer(frame).exit_index for frame in frames]
        seconds = perf_counter() - started
        waits = (slot.syncs - before) / len(frames)
    return {"frames_per_s": len(frames) / seconds, "exits": exits, "waits_a_frame": waits}


def piped(classifier: Classifier, frames: list[Frame], every_s: float) -> dict[str, Any]:
    """Return throughput, latency and exits where slots overlap."""
    with ready_slots(classifier, frames[0], FEWEST_SLOTS) as slots:
        latency_ms, exits, started = [], [], perf_counter()
        for result in Pipeline(Repeated(frames, every_s), slots, "all"):
            latency_ms.append(result.latency_ms)
            exits.append(result.prediction.exit_index)
        seconds = perf_counter() - started
    found = latency_from_ms(latency_ms)
    return {
        "frames_per_s": len(frames) / seconds,
        "latency_ms": {name: getattr(found, name) for name in ("mean", "p50", "p95", "p99")},
        "exits": exits,
    }


@contextmanager
def ready_slots(classifier: Classifier, frame: Frame, count: int) -> Iterator[list[Any]]:
    """Give slots that have answered a frame: memory and graphs are made at the first."""
    with ExitStack() as stack:
        slots = [classifier.new_slot() for _ in range(count)]
        for slot in slots:
            stack.callback(slot.close)
            answers_of(slot)(frame)
        yield slots


def cells(found: Mapping[str, Any] | str) -> tuple[str, ...]:
    """Return a line of the table."""
    if isinstance(found, str):
        return (f"networks in torch {found}", *"----")
    return (
        found["what"],
        f"{found['one_slot_frames_per_s']:.0f}/s",
        f"{found['frames_per_s']:.0f}/s",
        f"{found['speed_up']:.2f}x",
        f"{found['p99_over_p50']:.2f}",
    )
