"""Throughput with all outputs against throughput without any."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.live.sources import MemorySource
from edge.errors import EdgeError
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.live import run
from edge.live.audit import Auditor
from edge.live.events import Debouncer
from edge.live.messages import Message, Observation
from edge.live.outputs.base import Output
from edge.live.outputs.heartbeat import Heartbeat
from edge.live.outputs.open import open_output
from edge.live.outputs.terminal import Terminal

ROUNDS, BROKER_START_S = 7, 5.0


def outputs_cost(
    classifier: Classifier, pictures: list[Frame], total: int, rate: float, folder: Path
) -> dict[str, Any]:
    """Return the share of throughput that all outputs cost, measured in turns with and without them.

    Args:
        classifier: The classifier.
        pictures: Frames of the camera.
        total: Results of each run.
        rate: Frames of the camera per second, more than are inferred.
        folder: Folder for the files of outputs.
    """
    with broker() as address:
        folders = (folder / str(index) for index in count())

        def run_seconds(*, used: bool) -> float:
            outputs = all_outputs(next(folders), address) if used else []
            return seconds(classifier, MemorySource(pictures, 10**9, rate), total, outputs)

        cost = throughput_cost(run_seconds, "outputs_cost", total)
        names = [type(output).__name__ for output in all_outputs(folder / "names", address)]
    return {"rate": rate, "outputs": names, **cost}


def throughput_cost(run_seconds: Callable[..., float], name: str, total: int) -> dict[str, float]:
    """Return the share of throughput that something costs, measured in turns with and without it.

    Args:
        run_seconds: Runs with or without it, by the keyword `used`, and returns the time.
        name: Name of the cost in the result.
        total: Frames of each run.
    """
    times: dict[bool, list[float]] = {False: [], True: []}
    for index in range(ROUNDS):
        for used in (False, True) if index % 2 else (True, False):
            times[used].append(run_seconds(used=used))
    ratios = np.array(times[False]) / np.array(times[True])
    return {
        "frames": total,
        "rounds": ROUNDS,
        "frames_per_s_without": total / float(np.median(times[False])),
        name: 1 - float(np.median(ratios)),
        f"{name}_min": 1 - float(ratios.max()),
        f"{name}_max": 1 - float(ratios.min()),
    }


def seconds(
    classifier: Classifier,
    source: MemorySource,
    total: int,
    outputs: list[Output],
    auditor: Auditor | None = None,
) -> float:
    """Return the time from the first result to the last of a run that does not wait for outputs."""
    times: list[float] = []

    def note(message: Message) -> None:
        if isinstance(message, Observation):
            times.append(perf_counter())

    run(
        classifier, [source], outputs, policy="latest", new_debouncer=Debouncer, frames=total, auditor=auditor,
        on_message=note,
    )  # fmt: skip
    return times[-1] - times[0]


def all_outputs(folder: Path, broker_address: str) -> list[Output]:
    """Return every kind of output."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [str(folder / "lines.jsonl"), str(folder / "video.mp4"), broker_address, "http://127.0.0.1:0"]
    return [
        *(open_output(name, overwrite=True) for name in names),
        Heartbeat(),
        Terminal(lambda line: None),
    ]


@contextmanager
def broker() -> Iterator[str]:
    """Start mosquitto on a free port; yields its address.

    Raises:
        EdgeError: it is not installed or does not start.
    """
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        raise EdgeError("there is no MQTT broker to measure with; apt-get install mosquitto")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with subprocess.Popen([program, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port)
            yield f"mqtt://127.0.0.1:{port}/edge"
        finally:
            process.terminate()


def wait_for_port(port: int) -> None:
    """Wait until a server of this machine listens.

    Raises:
        EdgeError: it does not listen in time.
    """
    deadline = perf_counter() + BROKER_START_S
    while perf_counter() < deadline:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise EdgeError(f"nothing listens on port {port} after {BROKER_START_S:.0f} s")
