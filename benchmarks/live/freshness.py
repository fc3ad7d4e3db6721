"""Age of frames under `latest` while inference takes three frame times."""

from typing import Any

import numpy as np

from benchmarks.live.sources import MemorySource, SlowSlot
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.inference.pipeline import Pipeline
from edge.inference.slot_pool import MIN_SLOTS, SlotGroup, SlotPool

RATE, FRAMES, FRAME_TIMES = 30.0, 900, 3


def freshness(classifier: Classifier, pictures: list[Frame]) -> dict[str, Any]:
    """Return the age of frames at the start of inference and at its end, in frame times."""
    thresholds = np.array(classifier.thresholds, dtype=np.float32)
    slots = [SlowSlot(classifier, FRAME_TIMES / RATE) for _ in range(MIN_SLOTS)]
    source = MemorySource(pictures, FRAMES, RATE)
    results = list(Pipeline(source, SlotPool(SlotGroup(slots, lambda: thresholds)), "latest"))
    for slot in slots:
        slot.close()
    ages = np.array([result.age_ms for result in results])
    result_ages = np.array([result.latency_ms - FRAME_TIMES * 1e3 / RATE for result in results])
    return {
        "rate": RATE,
        "frames": FRAMES,
        "answered": len(results),
        "dropped": results[-1].dropped,
        "inference_frame_times": FRAME_TIMES,
        "frame_age_p95_frames": float(np.percentile(ages, 95)) * RATE / 1e3,
        "result_age_over_inference_p95_frames": float(np.percentile(result_ages, 95)) * RATE / 1e3,
    }
