"""Commands as a user gives them: as processes of their own, or in this one where that shows the same."""

import io
import json
import os
import resource
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
import pytest

from edge.console import WRONG_INPUT, run_main

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds after which whatever a test waits for is taken not to come."""
FEW_IMAGES = ("--method", "none", "--limit", "0.01")
"""To fit thresholds to: they can promise nothing of others."""


class Result(NamedTuple):
    """What a command said."""

    code: int
    stdout: str
    stderr: str


def run_command(*words: object, env: dict[str, str] | None = None, timeout: float = PATIENCE) -> Any:
    """Run `python -m words...` to its end."""
    return subprocess.run(
        _python(words), env={**os.environ, **(env or {})}, cwd=ROOT, timeout=timeout, capture_output=True, text=True
    )


@contextmanager
def started_command(
    *words: object, env: dict[str, str] | None = None, **streams: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start `python -m words...`; it is gone when the block ends."""
    process = subprocess.Popen(_python(words), env={**os.environ, **(env or {})}, cwd=ROOT, text=True, **streams)
    with process:
        try:
            yield process
        finally:
            process.kill()


def call(main: Callable[[], int], *words: object) -> Result:
    """Run a command's main function in this process, the way its module does."""
    stdout, stderr = io.StringIO(), io.StringIO()
    arguments = mock.patch.object(sys, "argv", ["command", *map(str, words)])
    with arguments, redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as leaving:
        run_main(main)
    return Result(int(leaving.value.code or 0), stdout.getvalue(), stderr.getvalue())


def complaint(result: Any) -> str:
    """Return the one line a refusal consists of, after what was said while all was well."""
    code = result.code if isinstance(result, Result) else result.returncode
    assert "Traceback" not in result.stderr
    assert code == WRONG_INPUT, f"exit code {code}: {result.stderr}"
    *before, last = result.stderr.splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith("error: ") for line in before)
    return last.removeprefix("error: ")


def json_lines(text: str) -> list[dict[str, Any]]:
    """Read JSON lines, all of which must be whole."""
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return every file's bytes by its path, hidden and left-over ones too; None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """Let no file grow beyond `free` bytes, here and in processes started here, as if the disk were full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def little_memory(free: int) -> Iterator[None]:
    """Let this process have so many bytes more than it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until something has happened elsewhere."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.002)


def random_frames(count: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """Return BGR frames of noise, which no codec can shorten."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def class_folder(folder: Path, classes: tuple[str, ...], each: int = 2, size: int = 16, seed: int = 0) -> Path:
    """Write images of noise, no two alike, into a subfolder for each class."""
    frames = iter(random_frames(len(classes) * each, size, size, seed))
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(each):
            cv2.imwrite(str(folder / name / f"{index}.png"), next(frames))
    return folder


def write_video(path: Path, frames: Sequence[np.ndarray] | np.ndarray) -> Path:
    """Write a video that loses nothing."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def _python(words: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", *map(str, words)]
