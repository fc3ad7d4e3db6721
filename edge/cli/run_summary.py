"""Summary of a run: counts, exit shares and times of all sources."""

from collections import deque
from threading import Lock
from time import perf_counter

import numpy as np

from edge.console import print_table
from edge.live.messages import Message, Observation
from edge.measure.latency import LATENCY_COLUMNS, latency_cells, latency_from_ms

STAGES = ("capture", "load", "infer", "age", "latency")
MAX_SUMMARY_FRAMES = 10_000
"""Number of last frames that percentiles cover, so that memory does not grow while a camera runs for weeks."""


class Summary:
    """Counts and times of a run. Sources may add messages at the same time."""

    def __init__(self, exits: int) -> None:
        """Count from zero."""
        self.frames = 0
        self._counts: dict[str, tuple[int, int, int]] = {}
        """Frames of each source that were dropped, skipped and damaged."""
        self._exits = np.zeros(exits, dtype=np.int64)
        self._times: dict[str, deque[float]] = {name: deque(maxlen=MAX_SUMMARY_FRAMES) for name in STAGES}
        self._started = perf_counter()
        self._lock = Lock()

    def add(self, message: Message) -> None:
        """Count an observation; other messages do not count."""
        if not isinstance(message, Observation):
            return
        with self._lock:
            self.frames += 1
            self._counts[message.source] = message.dropped, message.skipped, message.damaged
            self._exits[message.prediction.exit_index] += 1
            for name, times in self._times.items():
                times.append(getattr(message, f"{name}_ms"))

    def print(self, task: str) -> None:
        """Print exit shares and times of a task."""
        if not self.frames:
            return
        seconds = perf_counter() - self._started
        shares = ", ".join(f"exit {k} {share:.1%}" for k, share in enumerate(self._exits / self.frames))
        dropped, skipped, damaged = (sum(counts) for counts in zip(*self._counts.values(), strict=True))
        left_out = [f"{dropped} dropped", *([f"{skipped} skipped"] if skipped else [])]
        left_out += [f"{damaged} damaged"] if damaged else []
        title = f"{self.frames} frames, {self.frames / seconds:.0f} a second, {', '.join(left_out)}; {shares}"
        rows = [(name, *latency_cells(latency_from_ms(times))) for name, times in self._times.items()]
        print_table(f"{task}: {title}", ("stage", *LATENCY_COLUMNS), rows)
