"""`python -m benchmarks cuda-pipeline`: frames of consecutive slots overlapping on the GPU, against one at a time."""

from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.gpu.chain import DURATIONS_US, SHARES
from benchmarks.gpu.segments import frame_for, timed_classifier, timed_engines
from benchmarks.results import command_line, write_result
from edge.classifier import Classifier
from edge.console import print_table, say
from edge.cuda import opened
from edge.cuda.device import device_facts
from edge.errors import EngineError
from edge.machine import conditions
from edge.pipeline import FEWEST_SLOTS, Pipeline
from edge.preprocess import Frame
from edge.statistics import latency_from_ms

FRAMES = 5000
LOAD = 0.6
"""Share of the highest throughput at which latency is measured."""


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
        while perf_counter() < self._due:  # sleeping is too coarse here
            pass
        return next(self._frames, None)

    def close(self) -> None:
        """Nothing to let go of."""


def run_pipeline(output: Path) -> None:
    """Write `cuda_pipeline.json`.

    Raises:
        EngineError: there is no GPU.
    """
    runtime = opened()
    engines = timed_engines(runtime, (DURATIONS_US[0],) * len(SHARES))
    classifier = timed_classifier(runtime, engines, runtime.level)
    drawn = np.random.default_rng(0).choice(len(SHARES), size=FRAMES, p=SHARES)
    frames = [frame_for(int(k), len(SHARES)) for k in drawn]
    alone, together = one_at_a_time(classifier, frames), piped(classifier, frames, 0.0)
    same = [frame_for(0, len(SHARES))] * FRAMES  # of one exit: else latencies differ by what was asked
    paced = piped(classifier, same, 1 / (LOAD * together["frames_per_s"]))
    if together["exits"] != [int(k) for k in drawn]:
        raise EngineError("the pipeline's answers are not in the order of the frames; report this")
    result: dict[str, Any] = {
        "command": command_line(),
        "conditions": conditions() | {"gpu": device_facts()},
        "what": "timed kernels, no TensorRT",
        "level": runtime.level,
        "slots": FEWEST_SLOTS,
        "one_slot_frames_per_s": alone,
        "frames_per_s": together["frames_per_s"],
        "speed_up": together["frames_per_s"] / alone,
        "latency_ms": paced["latency_ms"],
        "p99_over_p50": paced["latency_ms"]["p99"] / paced["latency_ms"]["p50"],
    }
    write_result(output, result)
    row = (
        f"{alone:.0f}/s",
        f"{result['frames_per_s']:.0f}/s",
        f"{result['speed_up']:.2f}x",
        f"{result['p99_over_p50']:.2f}",
    )
    print_table("pipeline", ("one slot", f"{FEWEST_SLOTS} slots", "speed-up", "p99 over p50"), [row])
    say(f"all of it is in {output}")


def one_at_a_time(classifier: Classifier, frames: list[Frame]) -> float:
    """Return frames a second where each is waited for before the next is sent."""
    classifier.classify(frames[0])
    started = perf_counter()
    for frame in frames:
        classifier.classify(frame)
    return len(frames) / (perf_counter() - started)


def piped(classifier: Classifier, frames: list[Frame], every_s: float) -> dict[str, Any]:
    """Return throughput, latency and exits where slots overlap."""
    slots = [classifier.new_slot() for _ in range(FEWEST_SLOTS)]
    for slot in slots:  # memory and graphs are made at the first frame
        slot.frame = frames[0]
        slot.load()
        slot.infer()
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
