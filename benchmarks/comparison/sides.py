"""Sides of a comparison, and the processes that run them."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

from edge.console import UNAVAILABLE
from edge.errors import EdgeError, UnavailableError
from edge.system import CHECKOUT

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True, slots=True)
class Side:
    """A bundle on a backend, run by a checkout; without a bundle, the control loop."""

    name: str
    bundle: Path | None = None
    frames: Path | None = None
    """Bundle whose reference samples are the frames."""
    backend: str = "auto"
    precision: str = "auto"
    threads: int = 1
    checkout: Path = CHECKOUT
    cache: Path | None = None
    """Folder of its engines, which another checkout may build in another way; None for the user's."""
    slow_down: float = 0.0
    """Share by which each call is delayed, to validate the comparison itself."""

    def environment(self) -> dict[str, str]:
        """Return the environment of the side's worker."""
        cache = {} if self.cache is None else {"EDGE_CACHE": str(self.cache)}
        return {**os.environ, **cache, "PYTHONPATH": str(self.checkout), "PYTHONHASHSEED": "0"}

    def command(self) -> list[str]:
        """Return the command line of the side's worker."""
        command = [sys.executable, str(WORKER), f"--slow-down={self.slow_down}"]
        if self.bundle is None:
            return command
        options = {
            "bundle": self.bundle.resolve(),
            "frames": (self.frames or self.bundle).resolve(),
            "backend": self.backend,
            "precision": self.precision,
            "threads": self.threads,
        }
        return [*command, *(f"--{name}={value}" for name, value in options.items())]


class Worker:
    """The process of a side. Used as a context manager, which ends the process."""

    def __init__(self, side: Side) -> None:
        """Start the process; `wait_until_ready` returns once it has loaded and warmed up."""
        self._side = side
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            side.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=side.environment(),
        )

    def wait_until_ready(self) -> None:
        """Wait for the process to load its engines and to warm up.

        Raises:
            EdgeError: it cannot load them; the message has its reason.
        """
        self._answer()

    def turn(self, round_index: int) -> float:
        """Let the process time its frames once, and return their mean time in milliseconds.

        Raises:
            EdgeError: the process ended; the message has its reason.
        """
        assert self._process.stdin is not None  # noqa: S101 - a pipe, for mypy
        with suppress(BrokenPipeError):  # `_answer` raises the reason
            print(round_index, file=self._process.stdin, flush=True)
        return fmean(self._answer()) / 1e6

    def _answer(self) -> Any:
        assert self._process.stdout is not None  # noqa: S101 - a pipe, for mypy
        if line := self._process.stdout.readline():
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        reason = next(
            (line for line in reversed(self._errors.read().splitlines()) if line.strip()), f"exit code {code}"
        )
        kind = UnavailableError if code == UNAVAILABLE else EdgeError
        raise kind(f"side {self._side.name} ended: {reason}")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process, which has nothing to clean up."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()
