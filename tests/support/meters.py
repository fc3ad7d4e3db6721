"""A meter for tests on any machine: the energy of a board whose power follows this process's use of the CPU."""

import time

from edge.measure.cycles import Method
from edge.measure.power.base import Meters, RailMeter, Total, Unavailable

IDLE_MW, CORE_MW = 4000.0, 10_000.0
SHORT = Method(cool_down_s=0.02, idle_s=0.25, warm_up_s=0.1, loop_s=0.4, rounds=2, sample_interval_s=0.005)


def cpu_time_meters() -> Meters:
    """Return a counter of energy, and a kind of meter that this machine lacks."""

    def energy_mj() -> float:
        return IDLE_MW * time.monotonic() + CORE_MW * time.process_time()

    board = RailMeter("board", "energy_mj", {"VIN": energy_mj}, Total(("VIN",), "the board's input"))
    return Meters((board,), (Unavailable("rapl", "permission denied: energy_uj; run as root"),))
