"""A source classified live: what `edge run` does."""

import json
import math
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import numpy as np

from edge.bundle import Bundle
from edge.classifier import Classifier
from edge.console import PASSED, print_table, progress
from edge.errors import SourceError
from edge.pipeline import FEWEST_SLOTS, FrameResult, Pipeline, Policy
from edge.protocols import Backend, Slot
from edge.sources import open_source
from edge.statistics import LATENCY_COLUMNS, latency_cells, latency_from_ms

STAGES = ("capture", "load", "infer", "latency")
REMEMBERED_FRAMES = 10_000
"""Percentiles are of the last frames, so that a camera that runs for weeks does not fill the memory."""


def run_source(
    bundle: Bundle,
    *,
    precision: str,
    backend: Backend,
    source: str,
    thresholds: Sequence[float] | None,
    policy: Policy | None,
    frames: int | None,
    json_lines: bool,
    output: Path | None,
) -> int:
    """Classify a source's frames until it ends, `frames` are done, or the user interrupts; return the exit code.

    Raises:
        SourceError: the source cannot be opened or broke; what was classified before is written.
        EdgeError: the bundle, thresholds or engines cannot be used.
    """
    if bundle.manifest.input.kind == "array" and not Path(source).is_dir():
        raise SourceError(f"this bundle reads arrays, not pictures; {source} must be a folder of .npy files")
    classifier = Classifier.from_bundle(bundle, precision, backend, thresholds)
    opened = open_source(source)
    summary = Summary(exits=len(classifier.segments))
    slots: list[Slot] = []
    try:
        slots += [classifier.new_slot() for _ in range(FEWEST_SLOTS)]
        pipeline = Pipeline(opened, slots, policy or ("latest" if opened.is_live else "all"))
        with _lines(json_lines, output) as writers, progress() as bar:
            task = bar.add_task(f"{precision} on {backend.name}", total=frames or opened.frames, note="")
            for result in pipeline:
                label = bundle.manifest.labels[result.prediction.label]
                line = json.dumps(_record(result, label)) + "\n" if writers else ""
                for writer in writers:
                    writer.write(line)
                    writer.flush()  # whoever reads along sees each frame as it is answered
                summary.add(result)
                note = f"{label} {result.prediction.probability:.0%} at exit {result.prediction.exit_index}"
                bar.update(task, advance=1, note=note)
                if summary.frames == frames:
                    break
    except KeyboardInterrupt:
        pass  # the usual end of a camera; the summary is due
    finally:
        opened.close()
        for slot in slots:
            slot.close()
        if not json_lines:
            summary.print(precision, backend.name)
    return PASSED


class Summary:
    """Counts and times of a run."""

    def __init__(self, exits: int) -> None:
        """Start at nothing."""
        self.frames = self.dropped = 0
        self._exits = np.zeros(exits, dtype=np.int64)
        self._times: dict[str, deque[float]] = {name: deque(maxlen=REMEMBERED_FRAMES) for name in STAGES}
        self._started = perf_counter()

    def add(self, result: FrameResult) -> None:
        """Count a frame."""
        self.frames += 1
        self.dropped = result.dropped
        self._exits[result.prediction.exit_index] += 1
        for name, times in self._times.items():
            times.append(getattr(result, f"{name}_ms"))

    def print(self, precision: str, backend: str) -> None:
        """Print exit shares and times."""
        if not self.frames:
            return
        seconds = perf_counter() - self._started
        shares = ", ".join(f"exit {k} {share:.1%}" for k, share in enumerate(self._exits / self.frames))
        title = f"{self.frames} frames, {self.frames / seconds:.0f} a second, {self.dropped} dropped; {shares}"
        rows = [(name, *latency_cells(latency_from_ms(times))) for name, times in self._times.items()]
        print_table(f"{precision} on {backend}: {title}", ("stage", *LATENCY_COLUMNS), rows)


@contextmanager
def _lines(to_stdout: bool, output: Path | None) -> Iterator[list[TextIO]]:
    """Give where JSON lines go; a line is written whole or not at all, even if the process is killed."""
    writers: list[TextIO] = [sys.stdout] if to_stdout else []
    if output is None:
        yield writers
        return
    try:
        with output.open("w") as file:
            yield [*writers, file]
    except OSError as error:
        error.filename = error.filename or str(output)  # a full disk does not say which file it was
        raise


def _record(result: FrameResult, label: str) -> dict[str, Any]:
    prediction = result.prediction
    return {
        "frame": result.frame_index,
        "label": label,
        "label_index": prediction.label,
        "confidence": _number(prediction.confidence),
        "probability": _number(prediction.probability),
        "exit_index": prediction.exit_index,
        "latency_ms": round(result.latency_ms, 4),
        "capture_ms": round(result.capture_ms, 4),
        "load_ms": round(result.load_ms, 4),
        "infer_ms": round(result.infer_ms, 4),
        "dropped": result.dropped,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
