"""A side of a comparison in a process of its own: times its frames once for each line on stdin.

It runs as a script, with its side's checkout as the import path. That may be an older checkout, so that it imports
little of `edge`, and nothing of `benchmarks`.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, TextIO

from edge.errors import EdgeError

MAX_FRAMES = 50
LEADING_FRAMES = 3
"""Untimed frames at the start of a turn: the other sides have used the processor's caches meanwhile."""
CONTROL_CALLS = 10
"""Calls of the control loop in a turn."""

Call = Callable[[Any], object]


def main() -> None:
    """Take a turn for each line on stdin, and answer with a line of JSON: the time of each frame, in nanoseconds."""
    answers = take_stdout()
    arguments = parser().parse_args()
    try:
        call, items = control_work() if arguments.bundle is None else bundle_work(arguments)
        call = slowed(call, arguments.slow_down) if arguments.slow_down else call
        time_turn(call, items)
        print(json.dumps({"frames": len(items)}), file=answers, flush=True)
        for _ in sys.stdin:
            print(json.dumps(time_turn(call, items)), file=answers, flush=True)
    except EdgeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments, which `benchmarks.comparison.sides` writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, help="bundle to run; the control loop without")
    parser.add_argument("--frames", type=Path, help="bundle whose reference samples are the frames")
    parser.add_argument("--backend")
    parser.add_argument("--precision")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--slow-down", type=float, default=0.0, help="share by which each call is delayed")
    return parser


def take_stdout() -> TextIO:
    """Return stdout for answers, and send the output of libraries to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def bundle_work(arguments: argparse.Namespace) -> tuple[Call, Sequence[Any]]:
    """Return the classification of a frame, and frames that are spread over the reference samples."""
    from edge.bundle.bundle import Bundle
    from edge.frames.base import frame_from_array
    from edge.inference.load import load

    classifier = load(
        arguments.bundle, backend=arguments.backend, precision=arguments.precision, threads=arguments.threads
    )
    samples = Bundle.open(arguments.frames)
    pixels = samples.reference().frames
    frames = [frame_from_array(frame, samples.manifest.input.kind) for frame in pixels]
    return classifier.predict, frames[:: -(-len(frames) // MAX_FRAMES)]


def control_work() -> tuple[Call, Sequence[Any]]:
    """Return the control loop."""
    from edge.measure.control import control_loop

    return lambda _: control_loop(), range(CONTROL_CALLS)


def slowed(call: Call, share: float) -> Call:
    """Return a call that takes longer by a share of its own time: a planted slow-down that a comparison has to find."""

    def slow_call(item: Any) -> None:
        started_ns = perf_counter_ns()
        call(item)
        ended_ns = perf_counter_ns()
        until_ns = ended_ns + share * (ended_ns - started_ns)
        while perf_counter_ns() < until_ns:
            pass

    return slow_call


def time_turn(call: Call, items: Sequence[Any]) -> list[int]:
    """Return the time of each item, in nanoseconds."""
    for item in items[:LEADING_FRAMES]:
        call(item)
    times_ns = []
    for item in items:
        started_ns = perf_counter_ns()
        call(item)
        times_ns.append(perf_counter_ns() - started_ns)
    return times_ns


if __name__ == "__main__":
    main()
