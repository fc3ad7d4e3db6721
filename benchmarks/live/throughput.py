"""Throughput of the pipeline beside its stages alone, and the time that it adds to a frame."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Literal

import numpy as np

from benchmarks.live.neighbour import Neighbour
from benchmarks.live.networks import Workload
from benchmarks.live.sources import MemorySource
from benchmarks.live.stages import capture_all, infer_all, infer_video, read_frames, thresholds_of
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.measure.interleave import interleave

ROUNDS = 7
STAGES: tuple[Literal["capture", "inference"], ...] = ("capture", "inference")
PACED_RATE, PACED_FRAMES = 100.0, 600


def throughput(workload: Workload, classifier: Classifier) -> dict[str, Any]:
    """Return frames a second of each stage, of one thread and of the pipeline, measured in turns.

    Stages are measured alone, and beside the other stage in another process: cores share memory and power, so this is
    the limit of a pipeline on this machine.
    """
    frames, video = read_frames(workload.video), workload.video
    with ExitStack() as stack:
        neighbours = {stage: stack.enter_context(closing(Neighbour(stage, workload))) for stage in STAGES}
        calls: dict[str, Callable[[], object]] = {
            "capture": partial(capture_all, video),
            "inference": partial(infer_all, classifier, frames),
            "one_thread": partial(infer_video, classifier, video),
            "pipeline": lambda: sum(1 for _ in classifier.stream(video)),
        }
        calls |= {
            f"{stage}_beside_the_other": partial(beside, neighbours[other], calls[stage])
            for stage, other in zip(STAGES, reversed(STAGES), strict=True)
        }
        for call in calls.values():
            call()
        timed = interleave([partial(call_with, call) for call in calls.values()], range(ROUNDS))
    times = {name: one.times_ms for name, one in zip(calls, timed, strict=True)}
    slowest = np.maximum(times["capture"], times["inference"])
    limit = np.maximum(times["capture_beside_the_other"], times["inference_beside_the_other"])
    return {
        "network": workload.name,
        "frames": workload.frames,
        "rounds": ROUNDS,
        "frames_per_s": {name: workload.frames / float(np.median(values)) * 1e3 for name, values in times.items()},
        "one_thread_ratio": float(np.median(slowest / times["one_thread"])),
        "pipeline_ratio": float(np.median(slowest / times["pipeline"])),
        "pipeline_ratio_min": float(np.min(slowest / times["pipeline"])),
        "pipeline_ratio_max": float(np.max(slowest / times["pipeline"])),
        "pipeline_ratio_to_two_processes": float(np.median(limit / times["pipeline"])),
    }


def call_with(call: Callable[[], object], round_index: int) -> None:
    """Call in a round."""
    call()


def beside(neighbour: Neighbour, call: Callable[[], object]) -> None:
    """Call while a neighbour works."""
    with neighbour.resumed():
        call()


def added_latency(workload: Workload, classifier: Classifier) -> dict[str, Any]:
    """Return the p50 latency under `latest` at a camera's pace, and that of the same frames without a pipeline."""
    frames = read_frames(workload.video)[:PACED_FRAMES]
    source = MemorySource(frames, PACED_FRAMES, PACED_RATE)
    through = [result.latency_ms for result in classifier.stream(source, policy="latest")]
    paced, slot, thresholds = (
        MemorySource(frames, PACED_FRAMES, PACED_RATE),
        classifier.new_slot(),
        thresholds_of(classifier),
    )

    def direct(frame: Frame) -> None:
        slot.start(frame, thresholds)
        slot.result()

    times = []
    while (frame := paced.read(None)) is not None:
        [timed] = interleave([direct], [frame])
        times.append(float(timed.times_ms[0]))
    p50, direct_p50 = float(np.median(through)), float(np.median(times))
    return {"rate": PACED_RATE, "latest_p50_ms": p50, "direct_p50_ms": direct_p50, "added_p50_ms": p50 - direct_p50}
