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
from typing import Any

import numpy as np

from edge.bundle.bundle import Bundle
from edge.cli.arguments import add_backend, add_bundle, add_precision
from edge.cli.output import STDOUT_PATHS, check_lines
from edge.console import PASSED, ProgressDisplay, at_least, print_table
from edge.engines import backend_named
from edge.entry import STDOUT
from edge.errors import OutputError, SourceError
from edge.frames.address import public_address
from edge.frames.open import open_source
from edge.inference.load import default_precision, load_classifier
from edge.inference.pipeline import Result
from edge.live.outputs.lines_file import LinesFile
from edge.measure.latency import LATENCY_COLUMNS, latency_cells, latency_from_ms
from edge.progress import Progress

STAGES = ("capture", "load", "infer", "latency")
MAX_SUMMARY_FRAMES = 10_000
"""Number of last frames that percentiles cover, so that memory does not grow during weeks of a camera."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge run`."""
    add_bundle(parser)
    parser.add_argument(
        "--source",
        required=True,
        help="camera index or device, video file, image, folder of images, stream address, or GStreamer pipeline "
        "(... ! appsink)",
    )
    add_precision(parser, "run")
    parser.add_argument(
        "--threshold",
        type=float,
        action="append",
        metavar="T",
        help="thresholds of the early exits, one for each, in order; 0 always exits, 2 never (default: the fitted "
        "thresholds)",
    )
    parser.add_argument(
        "--policy",
        choices=("latest", "all"),
        help="latest drops late frames, all drops none (default: latest for cameras and streams, all for files)",
    )
    parser.add_argument("--frames", type=at_least(1), metavar="N", help="stop after N frames")
    parser.add_argument("--output", type=Path, metavar="FILE", help="append one JSON line per frame to FILE")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE instead of appending to it")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out damaged images and video frames, and count them"
    )
    add_backend(parser)


def main(arguments: argparse.Namespace) -> int:
    """Classify frames until the source ends, `--frames` are done, or a signal arrives.

    Raises:
        OutputError: `--output` is an input or another file that exists.
        SourceError: the source cannot be opened or fails; earlier predictions are written.
        EdgeError: the bundle, thresholds or engines cannot be used.
    """
    bundle = Bundle.open(arguments.bundle)
    _check_arguments(arguments, bundle)
    backend = backend_named(arguments.backend, threads=arguments.threads)
    precision = arguments.precision or default_precision(bundle, backend)
    task = f"{precision} on {backend.name}"
    summary = Summary(bundle.chain(precision).exits)
    with ProgressDisplay() as display:
        classifier = load_classifier(bundle, precision, backend, arguments.threshold, display)
    source = open_source(arguments.source, skip_bad=arguments.skip_bad)
    total = arguments.frames or source.frames
    try:
        with (
            closing(source),
            _lines(arguments) as lines,
            ProgressDisplay() as display,
            closing(classifier.stream(source, policy=arguments.policy)) as results,
        ):
            for result in results:
                summary.add(result)  # before the line, since a signal may come between both
                lines.write(result)
                note = f"{result.label} {result.probability:.0%} at exit {result.exit_index}"
                display(Progress(task, summary.frames, total, note))
                if summary.frames == arguments.frames or (lines.to_stdout and STDOUT.is_lost):
                    break
    finally:
        if not lines_on_stdout(arguments):
            summary.print(task)
    return PASSED


def lines_on_stdout(arguments: argparse.Namespace) -> bool:
    """Check that JSON lines are printed to stdout instead of the summary."""
    return arguments.json or str(arguments.output) in STDOUT_PATHS


def _check_arguments(arguments: argparse.Namespace, bundle: Bundle) -> None:
    """Check arguments before engines are built, which takes minutes.

    Raises:
        SourceError: the bundle reads arrays, and the source is not a folder.
        OutputError: the output is an input or another existing file.
    """
    source = Path(arguments.source)
    if bundle.manifest.input.kind == "array" and not source.is_dir():
        raise SourceError(
            f"{public_address(arguments.source)} is not a folder, and this bundle reads arrays, not images; give "
            "a folder of .npy files"
        )
    if arguments.output is None:
        if arguments.overwrite:
            raise OutputError("--overwrite was given without a file; add --output FILE, or remove --overwrite")
    elif str(arguments.output) not in STDOUT_PATHS:
        check_lines(arguments.output, [source], bundle, overwrite=arguments.overwrite)


class Summary:
    """Summary of a run: frames, exits and times."""

    def __init__(self, exits: int) -> None:
        """Count from zero."""
        self.frames = self.dropped = self.skipped = self.damaged = 0
        self._exits = np.zeros(exits, dtype=np.int64)
        self._times: dict[str, deque[float]] = {name: deque(maxlen=MAX_SUMMARY_FRAMES) for name in STAGES}
        self._started = perf_counter()

    def add(self, result: Result) -> None:
        """Count a frame."""
        self.frames += 1
        self.dropped, self.skipped, self.damaged = result.dropped, result.skipped, result.damaged
        self._exits[result.exit_index] += 1
        for name, times in self._times.items():
            times.append(getattr(result, f"{name}_ms"))

    def print(self, task: str) -> None:
        """Print exit shares and times of a task."""
        if not self.frames:
            return
        seconds = perf_counter() - self._started
        shares = ", ".join(f"exit {k} {share:.1%}" for k, share in enumerate(self._exits / self.frames))
        counts = f"{self.dropped} dropped"
        counts += "".join(f", {count} {name}" for name in ("skipped", "damaged") if (count := getattr(self, name)))
        title = f"{self.frames} frames, {self.frames / seconds:.0f} a second, {counts}; {shares}"
        rows = [(name, *latency_cells(latency_from_ms(times))) for name, times in self._times.items()]
        print_table(f"{task}: {title}", ("stage", *LATENCY_COLUMNS), rows)


class Lines:
    """JSON lines of a run, on stdout, in a file, or both. Readers receive each frame immediately."""

    def __init__(self, source: str, file: LinesFile | None, *, to_stdout: bool) -> None:
        """Write to an open file, to stdout, or both."""
        self.to_stdout = to_stdout
        self._source, self._file = public_address(source), file

    def write(self, result: Result) -> None:
        """Write a result."""
        if self._file is None and not self.to_stdout:
            return
        line = json.dumps(_record(result, self._source)) + "\n"
        if self.to_stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
        if self._file is not None:
            self._file.write([line.encode()])


@contextmanager
def _lines(arguments: argparse.Namespace) -> Iterator[Lines]:
    to_stdout = lines_on_stdout(arguments)
    if arguments.output is None or str(arguments.output) in STDOUT_PATHS:
        yield Lines(arguments.source, None, to_stdout=to_stdout)
        return
    with LinesFile(arguments.output, overwrite=arguments.overwrite) as file:
        yield Lines(arguments.source, file, to_stdout=to_stdout)


def _record(result: Result, source: str) -> dict[str, Any]:
    kind = "file" if isinstance(result.position, str) else "position_s"
    return {
        "time": f"{result.time:%Y-%m-%dT%H:%M:%S}.{result.time.microsecond // 1000:03}Z",
        "source": source,
        **({} if result.position is None else {kind: result.position}),
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
        "skipped": result.skipped,
        "damaged": result.damaged,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
