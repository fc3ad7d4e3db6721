"""Four cameras in one process against four processes: throughput and memory."""

import json
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.live.networks import Workload

CAMERAS, ROUNDS = 4, 3


def cameras(workload: Workload, frames: int, folder: Path) -> dict[str, Any]:
    """Run unpaced test patterns as cameras, in one process and in four, in turns."""
    source = f"test://?size=320x240&rate=0&frames={frames}"
    together, apart = [], []
    for _ in range(ROUNDS):
        together.append(measure(workload, [[source] * CAMERAS], folder))
        apart.append(measure(workload, [[source]] * CAMERAS, folder))
    ratios = [one["frames_per_s"] / four["frames_per_s"] for one, four in zip(together, apart, strict=True)]
    memory = [one["pss_mb"] / four["pss_mb"] for one, four in zip(together, apart, strict=True)]
    return {
        "cameras": CAMERAS,
        "frames_per_camera": frames,
        "one_process": together,
        "four_processes": apart,
        "throughput_ratio": sorted(ratios)[ROUNDS // 2],
        "memory_ratio": sorted(memory)[ROUNDS // 2],
    }


def measure(workload: Workload, processes: list[list[str]], folder: Path) -> dict[str, float]:
    """Return the throughput of all processes together, and the sum of their memory.

    Memory is the proportional set size, in which shared pages count once.
    """
    with ThreadPoolExecutor(len(processes)) as pool:
        runs = list(pool.map(lambda pair: watch(workload, pair[1], folder / f"{pair[0]}.jsonl"), enumerate(processes)))
    times = [camera for run in runs for camera in run.times]
    return {"frames_per_s": frames_per_s(times), "pss_mb": sum(run.pss_mb for run in runs)}


class Watched(NamedTuple):
    """A process of `edge run`."""

    times: list[list[float]]
    """Times of each camera's results, in seconds."""
    pss_mb: float
    """Largest memory in 10^6 bytes."""


def watch(workload: Workload, sources: list[str], lines: Path, *options: str) -> Watched:
    """Run cameras in a process; `options` are of `edge run`."""
    words = [word for source in sources for word in ("--source", source)]
    command = [sys.executable, "-m", "edge", "run", str(workload.bundle.path), *words, "--precision", "fp32"]
    process = subprocess.Popen(
        [*command, "--output", str(lines), "--overwrite", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pss = 0.0
    while process.poll() is None:
        pss = max(pss, proportional_mb(process.pid))
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    times = defaultdict(list)
    for record in map(json.loads, lines.read_text().splitlines()):
        times[record["source"]].append(datetime.fromisoformat(record["time"].replace("Z", "+00:00")).timestamp())
    return Watched(list(times.values()), pss)


def frames_per_s(times: list[list[float]]) -> float:
    """Return the throughput of all cameras together, while all have results: start-up and ends do not count."""
    start, end = max(camera[0] for camera in times), min(camera[-1] for camera in times)
    frames = sum(start <= time <= end for camera in times for time in camera)
    return frames / (end - start)


def proportional_mb(pid: int) -> float:
    """Return the proportional set size of a process; 0 if it has ended."""
    try:
        return float(psutil.Process(pid).memory_full_info().pss) / 1e6
    except psutil.Error:
        return 0.0
