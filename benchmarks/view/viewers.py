"""Throughput with viewers of the page against throughput with the same viewers at an idle server."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, sleep
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import connect

from benchmarks.live.outputs import seconds, throughput_cost
from benchmarks.live.sources import MemorySource
from benchmarks.view.clients import REQUEST
from edge.errors import EdgeError
from edge.frames.base import Frame
from edge.live import run
from edge.live.deployment import Deployment
from edge.live.view.output import View

RATE = 30.0
"""Frames a second of the camera of the page that is read."""
POLL_S, TIMEOUT_S = 0.005, 10.0
PAGE_FILES = ("/", "/view.css", "/view.js")


class LastingView(View):
    """A page that is served from before a run until after it."""

    def open(self) -> None:
        """Do nothing: the server is started."""

    def close(self) -> None:
        """Do nothing: the server continues."""

    @contextmanager
    def served(self) -> Iterator[None]:
        """Serve for the time of the block."""
        super().open()
        try:
            yield
        finally:
            super().close()


def viewers_cost(
    name: str, deployment: Deployment, pictures: list[Frame], viewers: int, total: int, rate: float
) -> dict[str, Any]:
    """Return the share of throughput that viewers cost.

    In the baseline, the same viewers are connected to a server that has no source. They receive no pictures there: the
    cost includes their own work on this machine.

    Args:
        name: Name of the cost in the result.
        deployment: Bundle and classifier.
        pictures: Frames of the camera.
        viewers: Connections, in one process.
        total: Results of each run.
        rate: Frames of the camera per second.
    """
    pictures_per_s: list[float] = []

    def run_seconds(*, used: bool) -> float:
        view = LastingView("127.0.0.1", 0, timeout_s=TIMEOUT_S, deployment=deployment)
        with view.served(), connected(view.name, viewers) as received:
            source = MemorySource(pictures, 10**9, rate)
            duration_s = seconds(deployment.classifier, source, total, [view] if used else [])
        if used:
            pictures_per_s.append(received[0] / viewers / duration_s)
        return duration_s

    cost = throughput_cost(run_seconds, name, total)
    return {
        "viewers": viewers,
        "rate": rate,
        **cost,
        "pictures_per_viewer_s": sum(pictures_per_s) / len(pictures_per_s),
    }


@contextmanager
def connected(url: str, viewers: int) -> Iterator[list[int]]:
    """Connect viewers in a process of their own; afterwards the list holds the number of their pictures.

    Raises:
        EdgeError: they cannot connect.
    """
    command = [sys.executable, "-m", "benchmarks.view.clients", url.replace("http://", "ws://") + "/ws", str(viewers)]
    received: list[int] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None, "no pipe"  # noqa: S101 - it is one
        if process.stdout.readline() != "ready\n":
            raise EdgeError(f"{viewers} viewers cannot connect to {url}; see the messages above")
        yield received
        received.append(int(process.communicate("")[0]))


def page_readable_s(deployment: Deployment, pictures: list[Frame]) -> float:
    """Return the time from the start of a run until its page, and a first picture on it, have arrived."""
    view, stop = View("127.0.0.1", 0, timeout_s=TIMEOUT_S, deployment=deployment), threading.Event()
    source = MemorySource(pictures, 10**9, RATE)
    running = threading.Thread(target=run, args=(deployment.classifier, [source], [view]), kwargs={"stop": stop})
    started = perf_counter()
    running.start()
    try:
        while view.name.endswith(":0"):
            sleep(POLL_S)
        for path in PAGE_FILES:
            with urlopen(view.name + path, timeout=TIMEOUT_S) as response:  # noqa: S310 - our own server
                response.read()
        wait_for_picture(view.name.replace("http://", "ws://") + "/ws")
        return perf_counter() - started
    finally:
        stop.set()
        running.join()


def wait_for_picture(url: str) -> None:
    """Request a picture as soon as there is a source, and receive it."""
    with connect(url, compression=None, max_size=None, proxy=None) as socket:
        while isinstance(message := socket.recv(TIMEOUT_S), str):
            if '"sources": ["' in message:
                socket.send(REQUEST)
