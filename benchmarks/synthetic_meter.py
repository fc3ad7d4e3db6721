"""A simulated power sensor whose load is known: another process writes its readings, as a Jetson's sysfs has them.

Like an INA3221 it has the mean power since its last update, in steps of its current's resolution. The power is that of
an idling machine, which drifts, plus the energy of the inferences since the last update.
"""

import mmap
import multiprocessing
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any

from edge.measure.power.base import Meters, Unavailable
from edge.measure.power.ina import find_ina

RAIL = "VDD_IN"
CHIP = Path("sys/class/hwmon/hwmon0")
DEPOSITED = "deposited_mj"
"""File with the energy of all inferences so far, which both processes map."""
FLOAT64 = struct.Struct("<d")
START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Sensor:
    """Properties of the simulated sensor and of the idling machine."""

    idle_mw: float = 4000.0
    drift_mw_per_s: float = 10.0
    update_interval_s: float = 0.02
    voltage_mv: int = 5000
    current_step_ma: int = 8


class SyntheticMeter:
    """A tree with one rail, written by another process. Used as a context manager."""

    def __init__(self, root: Path, sensor: Sensor) -> None:
        """Write the parts of the tree that do not change."""
        self.root = root
        chip = root / CHIP
        chip.mkdir(parents=True)
        files = {"name": "ina3221", "in1_label": RAIL, "in1_input": str(sensor.voltage_mv)}
        for name, text in files.items():
            (chip / name).write_text(f"{text}\n")
        (root / DEPOSITED).write_bytes(FLOAT64.pack(0.0))
        self._deposited_mj = 0.0
        context = multiprocessing.get_context("spawn")
        self._stopped = context.Event()
        self._process = context.Process(target=write_readings, args=(root, sensor, self._stopped), daemon=True)

    def __enter__(self) -> "SyntheticMeter":
        self._file = (self.root / DEPOSITED).open("r+b")
        self._memory = mmap.mmap(self._file.fileno(), FLOAT64.size)
        self._process.start()
        deadline_s = monotonic() + START_TIMEOUT_S
        while not (self.root / CHIP / "curr1_input").exists():
            if monotonic() > deadline_s or not self._process.is_alive():
                raise RuntimeError("the process of the simulated sensor did not start")
            sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._process.join()
        self._memory.close()
        self._file.close()

    def meters(self) -> Meters:
        """Return the meter that reads this tree."""
        meter = find_ina(self.root)
        if isinstance(meter, Unavailable):
            raise RuntimeError(str(meter))
        return Meters((meter,))

    def inference(self, energy_mj: float, duration_s: float = 0.0005) -> Callable[[], None]:
        """Return a workload with a known energy."""

        def infer() -> None:
            sleep(duration_s)
            self._deposited_mj += energy_mj
            FLOAT64.pack_into(self._memory, 0, self._deposited_mj)

        return infer


def write_readings(root: Path, sensor: Sensor, stopped: Any) -> None:
    """Update the rail's current at the sensor's rate until the event is set."""
    aside, current = root / CHIP / "aside", root / CHIP / "curr1_input"
    with (
        (root / DEPOSITED).open("rb") as file,
        mmap.mmap(file.fileno(), FLOAT64.size, access=mmap.ACCESS_READ) as memory,
    ):
        started_s = last_s = monotonic()
        last_mj = 0.0
        while not stopped.wait(sensor.update_interval_s):
            now_s, (now_mj,) = monotonic(), FLOAT64.unpack_from(memory)
            idle_mw = sensor.idle_mw + sensor.drift_mw_per_s * (now_s - started_s)
            power_mw = idle_mw + (now_mj - last_mj) / (now_s - last_s)
            current_ma = power_mw / sensor.voltage_mv * 1e3
            aside.write_text(f"{round(current_ma / sensor.current_step_ma) * sensor.current_step_ma}\n")
            os.replace(aside, current)
            last_s, last_mj = now_s, now_mj
