"""Command lines run by tests, in a process of their own or in this one, and the files that they read."""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import cv2
import numpy as np
import psutil
import pytest

from edge.console import WRONG_INPUT, run_main

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0 * float(os.environ.get("EDGE_TEST_PATIENCE", "1"))
"""Seconds after which a test fails instead of waiting on; an emulated machine needs more patience."""
NO_GUARANTEE = ("--method", "none", "--limit", "0.01")
"""Arguments to fit thresholds to few images, which support no statistical guarantee."""


class Result(NamedTuple):
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str


def run_command(*words: object, env: dict[str, str] | None = None, timeout: float = TIMEOUT_S) -> Any:
    """Run `python -m words...` to its end."""
    return subprocess.run(
        _python(words), env={**os.environ, **(env or {})}, cwd=ROOT, timeout=timeout, capture_output=True, text=True
    )


@contextmanager
def start_command(*words: object, env: dict[str, str] | None = None, **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """Start `python -m words...`; the process is killed when the block ends."""
    process = subprocess.Popen(_python(words), env={**os.environ, **(env or {})}, cwd=ROOT, text=True, **streams)
    with process:
        try:
            yield process
        finally:
            process.kill()


def call(main: Callable[[], int], *words: object) -> Result:
    """Run a command's main function in this process, as its module does, and return its exit code and output."""
    stdout, stderr = io.StringIO(), io.StringIO()
    arguments = mock.patch.object(sys, "argv", ["command", *map(str, words)])
    with arguments, redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as leaving:
        run_main(main)
    return Result(int(leaving.value.code or 0), stdout.getvalue(), stderr.getvalue())


def error_line(result: Any, expected: int = WRONG_INPUT) -> str:
    """Return the message of a command that refused its input: its exit code, and one error as stderr's last line."""
    code = result.code if isinstance(result, Result) else result.returncode
    assert "Traceback" not in result.stderr
    assert code == expected, f"exit code {code}: {result.stderr}"
    *before, last = result.stderr.splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith("error: ") for line in before)
    return last.removeprefix("error: ")


def only_error_line(result: Any) -> str:
    """Return the message of a command that refused its input and printed nothing else on stderr."""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return error_line(result)


def json_lines(text: str) -> list[dict[str, Any]]:
    """Parse JSON lines; every line must be complete."""
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file below a folder by its path, hidden and temporary ones too; None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """Simulate a full disk: no file grows beyond `free` bytes, in this process and its children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def limited_memory(free: int) -> Iterator[None]:
    """Limit this process to `free` bytes of memory more than it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def without_privileges() -> Iterator[None]:
    """Be a user who may not read everything, also where tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def wait_until(condition: Callable[[], object], event: str) -> None:
    """Wait until a condition holds; `event` names it in the failure."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {TIMEOUT_S} s for {event}"
        time.sleep(0.002)


def build_processes(parent: int | None = None) -> list[psutil.Process]:
    """Return the processes in which a process, by default this one, builds engines."""
    try:
        children = psutil.Process(parent).children()
        return [child for child in children if "connection.recv()(connection)" in " ".join(child.cmdline())]
    except psutil.Error:  # a process ended meanwhile
        return []


def random_frames(count: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """Return BGR images of noise, shape (count, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def class_folder(folder: Path, classes: tuple[str, ...], each: int = 2, size: int = 16, seed: int = 0) -> Path:
    """Write different images of noise into a subfolder for each class."""
    frames = iter(random_frames(len(classes) * each, size, size, seed))
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(each):
            cv2.imwrite(str(folder / name / f"{index}.png"), next(frames))
    return folder


def write_video(path: Path, frames: Sequence[np.ndarray] | np.ndarray) -> Path:
    """Write a lossless video."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def _python(words: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", *map(str, words)]


def can_unshare() -> bool:
    """Check that commands may run with processes and mounts of their own."""
    command = ["unshare", "-pf", "--mount-proc", "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0
