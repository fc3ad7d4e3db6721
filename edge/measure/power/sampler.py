"""A thread that reads meters while something else runs."""

from collections.abc import Mapping, Sequence
from threading import Event, Thread
from time import monotonic
from types import TracebackType

import numpy as np

from edge.measure.power.base import Meter, Sample, Unavailable
from edge.measure.power.trace import Trace

Readings = Mapping[str, Trace | Unavailable]
"""Readings of a meter by rail."""


class Sampler:
    """Reads all meters at an interval. Used as a context manager; the readings are complete at its end."""

    def __init__(self, meters: Sequence[Meter], interval_s: float) -> None:
        """Prepare the thread."""
        self._meters, self._interval_s = meters, interval_s
        self._samples: list[list[Sample]] = [[] for _ in meters]
        self._stopped = Event()
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, name="edge: power sampler", daemon=True)

    def __enter__(self) -> "Sampler":
        for meter in self._meters:
            meter.restart()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def readings(self) -> list[tuple[Meter, Readings]]:
        """Return the readings of each meter."""
        return [
            (meter, {rail: _trace(rail, meter, samples) for rail in meter.rails})
            for meter, samples in zip(self._meters, self._samples, strict=True)
        ]

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                started_s = monotonic()
                for meter, samples in zip(self._meters, self._samples, strict=True):
                    samples.append(meter.read())
                self._stopped.wait(max(0.0, started_s + self._interval_s - monotonic()))
        except Exception as error:  # raised in the thread that waits for the readings
            self._error = error


def _trace(rail: str, meter: Meter, samples: Sequence[Sample]) -> Trace | Unavailable:
    """Return the readings of a rail; single failures leave gaps, while a rail that fails to the end is unavailable."""
    readings = [sample for sample in samples if rail in sample.values]
    if error := samples[-1].errors.get(rail):
        worked_s = readings[-1].time_s - samples[0].time_s if readings else 0.0
        return Unavailable(rail, f"{error}; it was last read {worked_s:.1f} s after the start")
    times = np.array([sample.time_s for sample in readings])
    return Trace(meter.quantity, times, np.array([sample.values[rail] for sample in readings]))
