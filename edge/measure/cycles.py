"""Workloads run in a random order, each for seconds, between windows in which the machine idles.

cool-down, idle window, warm-up, loop, cool-down, idle window, warm-up, loop, cool-down, idle window
           ^-- first cycle --------------------------------^
                                                    ^-- second cycle ---------------------------^
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic, sleep
from typing import NamedTuple

from edge.errors import DataError
from edge.machine_state import MachineState
from edge.measure.power.trace import Window
from edge.progress import OnProgress, track

Run = Callable[[], object]
"""One inference, complete at its return."""


@dataclass(frozen=True, slots=True)
class Method:
    """Durations and repetitions of a measurement."""

    cool_down_s: float = 5.0
    """Rest before an idle window, for temperatures and clocks to settle."""
    idle_s: float = 5.0
    warm_up_s: float = 2.0
    """The load before its window, longer than the update interval of the slowest sensor."""
    loop_s: float = 5.0
    rounds: int = 3
    """Loops of each workload; at least 2, from whose spread the uncertainty follows."""
    sample_interval_s: float = 0.01
    seed: int = 0
    """Seed of the workloads' order."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            DataError: there is a single round, or a window without a duration.
        """
        if self.rounds < 2:
            raise DataError(f"rounds is {self.rounds}, which has no spread; give at least 2")
        for name in ("idle_s", "loop_s", "sample_interval_s"):
            if not getattr(self, name) > 0:
                raise DataError(f"{name} is {getattr(self, name)}; give a time above 0")

    def duration_s(self, workloads: int) -> float:
        """Return the time for a number of workloads."""
        rest_s = self.cool_down_s + self.idle_s
        return rest_s + workloads * self.rounds * (self.warm_up_s + self.loop_s + rest_s)


class Cycle(NamedTuple):
    """A loop of one workload between two idle windows."""

    workload: str
    idle_before: Window
    load: Window
    idle_after: Window
    inferences: int
    states: tuple[MachineState, MachineState]
    """The machine under load: during the warm-up, and at the end of the loop."""

    @property
    def latency_ms(self) -> float:
        """Mean time of an inference."""
        return self.load.duration_s / self.inferences * 1e3


def run_cycles(
    workloads: Mapping[str, Run], method: Method, read_state: Callable[[], MachineState], on_progress: OnProgress
) -> Iterator[Cycle]:
    """Run every workload once in each round, in an order drawn anew for each round."""
    draw = random.Random(method.seed)  # noqa: S311 - an order, not a secret
    order = [name for _ in range(method.rounds) for name in draw.sample(list(workloads), len(workloads))]
    idle_before = _rest(method)
    for name in track(order, "measuring energy", on_progress):
        run = workloads[name]
        _loop(run, method.warm_up_s / 2)
        first_state = read_state()  # may take long enough for clocks to fall
        _loop(run, method.warm_up_s / 2)
        inferences, load = _loop(run, method.loop_s)
        states = (first_state, read_state())
        idle_after = _rest(method)
        yield Cycle(name, idle_before, load, idle_after, inferences, states)
        idle_before = idle_after


def _rest(method: Method) -> Window:
    """Let the machine cool down, and return the idle window that follows."""
    sleep(method.cool_down_s)
    start_s = monotonic()
    sleep(method.idle_s)
    return Window(start_s, monotonic())


def _loop(run: Run, duration_s: float) -> tuple[int, Window]:
    """Run inferences for at least a duration; return their number and the window."""
    start_s = now_s = monotonic()
    inferences = 0
    while now_s - start_s < duration_s:
        run()
        inferences += 1
        now_s = monotonic()
    return inferences, Window(start_s, now_s)
