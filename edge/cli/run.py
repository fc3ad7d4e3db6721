"""`edge run`: live classification of a source."""

import argparse
import json
import math
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import numpy as np

from edge.bundle.bundle import Bundle
from edge.cli.arguments import add_backend, add_bundle, add_precision
from edge.console import PASSED, ProgressDisplay, at_least, print_table
from edge.engines import backend_named
from edge.errors import SourceError
from edge.frames.open import open_source
from edge.inference.load import default_precision, load_classifier
from edge.inference.pipeline import Result
from edge.measure.latency import LATENCY_COLUMNS, latency_cells, latency_from_ms
from edge.progress import Progress

STAGES = ("capture", "load", "infer", "latency")
MAX_SUMMARY_FRAMES = 10_000
"""Percentiles cover the last frames only, so that memory does not grow with a camera that runs for weeks."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge run`."""
    add_bundle(parser)
    parser.add_argument(
        "--source",
        required=True,
        help="camera index, video file, folder of images, rtsp:// address, or GStreamer pipeline (... ! appsink)",
    )
    add_precision(parser, "run")
    parser.add_argument(
        "--threshold",
        type=float,
        action="append",
        metavar="T",
        help="confidence at which an early exit answers; repeat once per early exit, in order; 0: always, above 1: "
        "never (default: the fitted ones)",
    )
    parser.add_argument(
        "--policy",
        choices=("latest", "all"),
        help="latest: drop frames when late; all: drop none (default: latest for cameras, all for files)",
    )
    parser.add_argument("--frames", type=at_least(1), metavar="N", help="stop after N frames")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write one JSON line per frame to FILE")
    add_backend(parser)


def main(arguments: argparse.Namespace) -> int:
    """Classify frames until the source ends, `--frames` are done, or the user interrupts.

    Raises:
        SourceError: the source cannot be opened or fails; predictions before that are written.
        EdgeError: the bundle, thresholds or engines cannot be used.
    """
    bundle = Bundle.open(arguments.bundle)
    if bundle.manifest.input.kind == "array" and not Path(arguments.source).is_dir():
        raise SourceError(f"this bundle reads arrays, not images; {arguments.source} must be a folder of .npy files")
    backend = backend_named(arguments.backend, threads=arguments.threads)
    precision = arguments.precision or default_precision(bundle, backend)
    task = f"{precision} on {backend.name}"
    summary = Summary(bundle.chain(precision).exits)
    with ProgressDisplay() as display:
        classifier = load_classifier(bundle, precision, backend, arguments.threshold, display)
    source = open_source(arguments.source)
    total = arguments.frames or source.frames
    try:
        with (
            closing(source),
            _json_outputs(to_stdout=arguments.json, file=arguments.output) as outputs,
            ProgressDisplay() as display,
            closing(classifier.stream(source, policy=arguments.policy)) as results,
        ):
            for result in results:
                _write(result, outputs)
                summary.add(result)
                note = f"{result.label} {result.probability:.0%} at exit {result.exit_index}"
                display(Progress(task, summary.frames, total, note))
                if summary.frames == arguments.frames:
                    break
    except KeyboardInterrupt:
        pass  # the usual end of a camera; the summary is due
    finally:
        if not arguments.json:
            summary.print(task)
    return PASSED


class Summary:
    """Counts and times of a run."""

    def __init__(self, exits: int) -> None:
        """Count from zero."""
        self.frames = self.dropped = 0
        self._exits = np.zeros(exits, dtype=np.int64)
        self._times: dict[str, deque[float]] = {name: deque(maxlen=MAX_SUMMARY_FRAMES) for name in STAGES}
        self._started = perf_counter()

    def add(self, result: Result) -> None:
        """Count a frame."""
        self.frames += 1
        self.dropped = result.dropped
        self._exits[result.exit_index] += 1
        for name, times in self._times.items():
            times.append(getattr(result, f"{name}_ms"))

    def print(self, task: str) -> None:
        """Print exit shares and times of a task."""
        if not self.frames:
            return
        seconds = perf_counter() - self._started
        shares = ", ".join(f"exit {k} {share:.1%}" for k, share in enumerate(self._exits / self.frames))
        title = f"{self.frames} frames, {self.frames / seconds:.0f} a second, {self.dropped} dropped; {shares}"
        rows = [(name, *latency_cells(latency_from_ms(times))) for name, times in self._times.items()]
        print_table(f"{task}: {title}", ("stage", *LATENCY_COLUMNS), rows)


@contextmanager
def _json_outputs(*, to_stdout: bool, file: Path | None) -> Iterator[list[TextIO]]:
    """Yield the streams for JSON lines. Each line is written whole or not at all, even if the process is killed."""
    outputs: list[TextIO] = [sys.stdout] if to_stdout else []
    if file is None:
        yield outputs
        return
    try:
        with file.open("w") as opened:
            yield [*outputs, opened]
    except OSError as error:
        error.filename = error.filename or str(file)  # the error of a full disk does not name the file
        raise


def _write(result: Result, outputs: list[TextIO]) -> None:
    """Write a result as one JSON line and flush it, so that readers see every frame at once."""
    if not outputs:
        return
    line = json.dumps(_record(result)) + "\n"
    for output in outputs:
        output.write(line)
        output.flush()


def _record(result: Result) -> dict[str, Any]:
    return {
        "frame": result.frame_index,
        "label": result.label,
        "label_index": result.label_index,
        "confidence": _number(result.confidence),
        "probability": _number(result.probability),
        "exit_index": result.exit_index,
        "latency_ms": round(result.latency_ms, 4),
        "capture_ms": round(result.capture_ms, 4),
        "load_ms": round(result.load_ms, 4),
        "infer_ms": round(result.infer_ms, 4),
        "dropped": result.dropped,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
