"""Summary of a run: counts, exit shares and times of all sources."""

from collections import Counter, deque
from time import perf_counter

from edge.console import print_table
from edge.live.messages import COUNTS, DURATIONS, Message, Observation
from edge.live.statistics import Statistics, describe_audits
from edge.measure.latency import LATENCY_COLUMNS, latency_cells, latency_from_ms

MAX_SUMMARY_FRAMES = 10_000
"""Number of last frames that percentiles cover, so that memory does not grow while a camera runs for weeks."""


class Summary:
    """Counts and times of a run. Sources may add messages at the same time."""

    def __init__(self, exits: int) -> None:
        """Count from zero."""
        self._exits = exits
        self._statistics = Statistics()
        self._times: dict[str, deque[float]] = {name: deque(maxlen=MAX_SUMMARY_FRAMES) for name in DURATIONS}
        self._started_s = perf_counter()

    def add(self, message: Message) -> None:
        """Count a message."""
        self._statistics.add([message])
        if isinstance(message, Observation):
            for name, times in self._times.items():  # `append` is atomic
                times.append(getattr(message.result, name))

    def print(self, task: str) -> None:
        """Print exit shares and times of a task."""
        seconds = perf_counter() - self._started_s
        with self._statistics.sources() as sources:
            exits = sum((source.exits for source in sources.values()), Counter[int]())
            audits = sum((source.audits for source in sources.values()), Counter[str]())
            alarms = sorted({kind for source in sources.values() for kind in source.alarms})
            counts = {name: sum(getattr(source, name) for source in sources.values()) for name in COUNTS}
        frames = exits.total()
        if not frames:
            return
        shares = ", ".join(f"exit {k} {exits[k] / frames:.1%}" for k in range(max(self._exits, max(exits) + 1)))
        left_out = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "dropped")
        rows = [(name.removesuffix("_ms"), *latency_cells(latency_from_ms(times)))
                for name, times in self._times.items()]  # fmt: skip
        title = f"{task}: {frames} frames, {frames / seconds:.0f} a second, {left_out}; {shares}"
        title += f"; {describe_audits(audits)}" if audits else ""
        title += f"; alarms: {', '.join(alarms)}" if alarms else ""
        print_table(title, ("stage", *LATENCY_COLUMNS), rows)
