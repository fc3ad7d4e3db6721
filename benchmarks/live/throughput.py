"""Throughput of the pipeline beside its stages alone, and the time that it adds to a frame."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.live.networks import Workload
from benchmarks.live.sources import MemorySource
from edge.frames.base import Frame
from edge.frames.open import open_source
from edge.inference.classifier import Classifier
from edge.measure.interleave import interleave

ROUNDS = 7
PACED_RATE, PACED_FRAMES = 100.0, 600


def throughput(workload: Workload, classifier: Classifier) -> dict[str, Any]:
    """Return frames a second of each stage alone, of one thread and of the pipeline, measured in turns."""
    frames = read_frames(workload)
    calls: dict[str, Callable[[int], object]] = {
        "capture": lambda _: capture_all(workload),
        "inference": lambda _: infer_all(classifier, frames),
        "one_thread": lambda _: infer_video(classifier, workload),
        "pipeline": lambda _: sum(1 for _ in classifier.stream(workload.video)),
    }
    for call in calls.values():
        call(0)
    times = {
        name: timed.times_ms for name, timed in zip(calls, interleave(list(calls.values()), range(ROUNDS)), strict=True)
    }
    slowest = np.maximum(times["capture"], times["inference"])
    return {
        "network": workload.name,
        "frames": workload.frames,
        "rounds": ROUNDS,
        "frames_per_s": {name: workload.frames / float(np.median(values)) * 1e3 for name, values in times.items()},
        "one_thread_ratio": float(np.median(slowest / times["one_thread"])),
        "pipeline_ratio": float(np.median(slowest / times["pipeline"])),
        "pipeline_ratio_min": float(np.min(slowest / times["pipeline"])),
        "pipeline_ratio_max": float(np.max(slowest / times["pipeline"])),
    }


def added_latency(workload: Workload, classifier: Classifier) -> dict[str, Any]:
    """Return the p50 latency under `latest` at a camera's pace, and that of the same frames without a pipeline."""
    frames = read_frames(workload)[:PACED_FRAMES]
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


def read_frames(workload: Workload) -> list[Frame]:
    """Return all frames of the video, in memory of their own."""
    source, frames = open_source(workload.video), []
    while (frame := source.read(None)) is not None:
        frames.append(frame)
    source.close()
    return frames


def capture_all(workload: Workload) -> None:
    """Read the video."""
    source, frame = open_source(workload.video), None
    while (frame := source.read(frame)) is not None:
        pass
    source.close()


def infer_all(classifier: Classifier, frames: Sequence[Frame]) -> None:
    """Preprocess and infer frames from memory."""
    slot, thresholds = classifier.new_slot(), thresholds_of(classifier)
    for frame in frames:
        slot.start(frame, thresholds)
        slot.result()
    slot.close()


def infer_video(classifier: Classifier, workload: Workload) -> None:
    """Read and infer in one thread."""
    source, slot, thresholds = open_source(workload.video), classifier.new_slot(), thresholds_of(classifier)
    frame = None
    while (frame := source.read(frame)) is not None:
        slot.start(frame, thresholds)
        slot.result()
    source.close()
    slot.close()


def thresholds_of(classifier: Classifier) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Return the thresholds as slots read them."""
    return np.array(classifier.thresholds, dtype=np.float32)
