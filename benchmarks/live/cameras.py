"""Four cameras in one process against four processes: throughput and memory."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

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

    Throughput counts from the first result of the last process to its last result: start-up does not count. Memory is
    the proportional set size, in which shared pages count once.
    """
    with ThreadPoolExecutor(len(processes)) as pool:
        runs = list(pool.map(lambda pair: watch(workload, pair[1], folder / f"{pair[0]}.jsonl"), enumerate(processes)))
    start, end = max(first for first, _, _, _ in runs), min(last for _, last, _, _ in runs)
    frames = sum(sum(start <= time <= end for time in times) for _, _, times, _ in runs)
    return {"frames_per_s": frames / (end - start), "pss_mb": sum(pss for *_, pss in runs)}


def watch(workload: Workload, sources: list[str], lines: Path) -> tuple[float, float, list[float], float]:
    """Return the times of a process's first and last result, all times, and its largest memory in 10^6 bytes."""
    words = [word for source in sources for word in ("--source", source)]
    command = [sys.executable, "-m", "edge", "run", str(workload.bundle.path), *words, "--precision", "fp32"]
    process = subprocess.Popen(
        [*command, "--output", str(lines), "--overwrite"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    pss = 0.0
    while process.poll() is None:
        pss = max(pss, proportional_mb(process.pid))
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    times = [datetime.fromisoformat(record["time"].replace("Z", "+00:00")).timestamp() for record in records]
    return min(times), max(times), times, pss


def proportional_mb(pid: int) -> float:
    """Return the proportional set size of a process; 0 if it has ended."""
    try:
        return float(psutil.Process(pid).memory_full_info().pss) / 1e6
    except psutil.Error:
        return 0.0
