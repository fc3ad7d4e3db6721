"""Loading in worker processes: as many as the shared memory holds batches for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge.training import loading
from tests.support.commands import ROOT, class_folder


@pytest.mark.parametrize(
    ("free", "batch_bytes", "workers"),
    [(None, 1 << 30, 4), (1 << 40, 1 << 20, 4), (64 << 20, 38 << 20, 0), (64 << 20, 10 << 20, 2), (0, 1, 0)],
)
def test_workers_are_as_many_as_their_batches_fit(
    free: int | None, batch_bytes: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "usable_cores", lambda: 4)
    monkeypatch.setattr(loading, "_free_shared_memory", lambda: free)
    assert loading._usable_workers(batch_bytes) == workers


def can_mount() -> bool:
    command = ["unshare", "-m", "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not can_mount(), reason="needs permission to mount")
def test_training_with_a_small_shared_memory_ends(tmp_path: Path) -> None:
    """The default of a container is 64 MB, which two batches of 64 images of 224 pixels fill."""
    folder = class_folder(tmp_path / "images", ("a", "b"), each=100)
    program = [sys.executable, "-m", "edge.training", "--dataset", "folder", "--data", str(folder)]
    options = ["--image-size", "224", "--backbone", "cnn-small", "--epochs", "1", "--output", str(tmp_path / "run")]
    mount = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", *program, *options]
    result = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "64 MiB free" in result.stderr
    assert "Traceback" not in result.stderr
