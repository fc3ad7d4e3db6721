"""Memory, threads and descriptors of a long run with outputs."""

import os
import threading
from typing import Any

import psutil

from benchmarks.live.sources import MemorySource
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.live import run
from edge.live.events import Debouncer
from edge.live.messages import Message, Observation
from edge.live.outputs.base import Output

WARM_UP = 0.1
"""Share of the frames after which memory is first measured."""


def endurance(classifier: Classifier, pictures: list[Frame], total: int, outputs: list[Output]) -> dict[str, Any]:
    """Return the growth of memory, threads and descriptors from the warm-up to the end of a run of `total` frames."""
    marks: dict[str, dict[str, float]] = {}
    frames = 0

    def watch(message: Message) -> None:
        nonlocal frames
        if isinstance(message, Observation):
            frames += 1
            if frames in (int(WARM_UP * total), total):
                marks["first" if frames < total else "last"] = usage()

    source = MemorySource(pictures, total)
    run(classifier, [source], outputs, policy="all", new_debouncer=Debouncer, on_message=watch)
    growth = {f"{name}_growth": marks["last"][name] - marks["first"][name] for name in marks["first"]}
    return {"frames": frames, **growth}


def usage() -> dict[str, float]:
    """Return this process's resident memory in 10^6 bytes, threads and descriptors."""
    rss_mb = psutil.Process().memory_info().rss / 1e6
    return {"rss_mb": rss_mb, "threads": threading.active_count(), "descriptors": len(os.listdir("/proc/self/fd"))}
