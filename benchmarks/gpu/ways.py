"""Ways to answer a frame, run in turns, so that whatever disturbs this machine disturbs all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.frames.base import Frame
from edge.inference.base import Slot
from edge.measure.latency import latency_from_ms


class Answer(NamedTuple):
    """Which exit answered a frame, and what."""

    exit_index: int
    label: int


Answering = Callable[[Frame], Answer]
Way = Callable[[Frame], tuple[float, Answer]]
"""From a frame to microseconds, by some clock, and the answer."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one way took and said, frame by frame."""

    us: NDArray[np.float64]
    exit_index: NDArray[np.intp]
    label: NDArray[np.intp]


def answers_of(slot: Slot) -> Answering:
    """Return what sends a frame and waits for the answer."""

    def answer(frame: Frame) -> Answer:
        slot.frame = frame
        slot.load()
        found = slot.infer()
        return Answer(found.exit_index, found.label)

    return answer


def by_the_host(answering: Answering) -> Way:
    """Return a way timed by the host: from the frame being there to the decision being known."""

    def way(frame: Frame) -> tuple[float, Answer]:
        started = perf_counter_ns()
        answer = answering(frame)
        return (perf_counter_ns() - started) / 1e3, answer

    return way


def interleaved(ways: Mapping[str, Way], frames: Sequence[Frame], warm_up: int) -> dict[str, Answers]:
    """Run every way on every frame, in an order drawn for each; leave the first `warm_up` frames out.

    No bar shows progress: it would be drawn by a thread of this process.
    """
    found: dict[str, list[tuple[float, int, int]]] = {name: [] for name in ways}
    turns, generator = list(ways.items()), np.random.default_rng(1)
    for frame in frames:
        for index in generator.permutation(len(turns)):
            name, way = turns[index]
            us, answer = way(frame)
            found[name].append((us, *answer))
    return {name: Answers(*map(np.array, zip(*rows[warm_up:], strict=True))) for name, rows in found.items()}


def summed_up(us: NDArray[np.float64]) -> dict[str, Any]:
    """Return mean and percentiles in microseconds, and their spread relative to p50."""
    latency = latency_from_ms(us / 1e3)
    return {name: 1e3 * getattr(latency, name) for name in ("mean", "p50", "p95", "p99")} | {"spread": latency.spread}
