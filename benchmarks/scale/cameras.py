"""Cost of a frame and memory over the number of cameras in one process."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.live.cameras import frames_per_s, watch
from benchmarks.live.networks import Workload
from edge.console import track
from edge.inference.slot_pool import MIN_SLOTS

HEIGHT, WIDTH = 240, 320
CAMERA = f"test://?size={WIDTH}x{HEIGHT}&rate=0"
"""A test pattern that never ends, as fast as it is read."""
FRAMES_MB = MIN_SLOTS * HEIGHT * WIDTH * 3 / 1e6
"""Memory of the frames that a camera has in flight."""


@dataclass(frozen=True, slots=True)
class CameraGrowth:
    """Throughput and memory over the number of cameras."""

    cameras: tuple[int, ...]
    ms_per_frame: tuple[float, ...]
    """Time of all cameras together over their frames: constant if the cost of a camera is linear."""
    memory_mb: tuple[float, ...]
    """Proportional set size, in 10^6 bytes."""

    @property
    def over_linear(self) -> float:
        """Cost of a frame with the most cameras over that with one; at most 1 if cost is linear or better."""
        return self.ms_per_frame[-1] / self.ms_per_frame[0]

    @property
    def mb_per_camera(self) -> float:
        """Memory of each further camera without the frames that it has in flight."""
        return (self.memory_mb[-1] - self.memory_mb[0]) / (self.cameras[-1] - self.cameras[0]) - FRAMES_MB


def over_cameras(workload: Workload, counts: Sequence[int], frames: int, rounds: int, folder: Path) -> CameraGrowth:
    """Run unpaced test patterns as cameras, all counts in turns, with the same number of frames in all."""
    runs: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    for _ in track(range(rounds), "cameras"):
        for count in counts:
            watched = watch(workload, [CAMERA] * count, folder / f"cameras-{count}.jsonl", "--frames", str(frames))
            runs[count].append((1e3 / frames_per_s(watched.times), watched.pss_mb))
    costs, memory = ([median(run[index] for run in runs[count]) for count in counts] for index in (0, 1))
    return CameraGrowth(tuple(counts), tuple(costs), tuple(memory))
