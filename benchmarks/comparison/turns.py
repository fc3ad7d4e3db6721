"""Sides that take turns in random order, each in a process of its own, with the control loop in this one."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from statistics import fmean

import numpy as np

from benchmarks.comparison.sides import Side, Worker
from benchmarks.comparison.verdict import Comparison, compare_times
from benchmarks.comparison.worker import control_work, time_turn
from edge.measure.interleave import interleave
from edge.progress import OnProgress, ignore_progress, track

LAUNCHES = 6
"""Times that a pass starts its processes: the layout of a process in memory changes its speed by a percent or two."""
ROUNDS = 15
"""Turns of each side in a launch."""


def compare(a: Side, b: Side, on_progress: OnProgress = ignore_progress) -> list[Comparison]:
    """Compare two sides; a difference is measured in a second pass.

    Raises:
        EdgeError: a side cannot be loaded, or its process ended.
    """
    passes = [_one_pass(a, b, 0, on_progress)]
    if passes[0].verdict != "level":
        passes.append(_one_pass(a, b, 1, on_progress))
    return passes


def _one_pass(a: Side, b: Side, index: int, on_progress: OnProgress) -> Comparison:
    sides = [a, replace(a, name=f"{a.name} again"), b]
    seeds = range(index * LAUNCHES, (index + 1) * LAUNCHES)
    launches = [_launch(sides, seed) for seed in track(seeds, f"pass {index + 1}", on_progress)]
    return compare_times(*np.array(launches).swapaxes(0, 1))


def _launch(sides: Sequence[Side], seed: int) -> list[list[float]]:
    """Return the mean time of a frame in each round, for each side and for the control loop."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(side)) for side in sides]
        for worker in workers:
            worker.wait_until_ready()
        timed = interleave([*(worker.turn for worker in workers), _control_turn], range(ROUNDS), seed)
    return [series.results for series in timed]


def _control_turn(_: int) -> float:
    return fmean(time_turn(*control_work())) / 1e6
