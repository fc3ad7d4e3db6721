"""Files to damage."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge.bundle.bundle import Bundle
from tests.support.commands import random_frames, write_video

if TYPE_CHECKING:
    from edge.training.checkpoint import Checkpoint


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    """Return a copy of a bundle."""
    return Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Return a video of 12 frames."""
    return write_video(tmp_path / "video.avi", random_frames(12))


@pytest.fixture
def checkpoint(digits_checkpoint: "Checkpoint", tmp_path: Path) -> Path:
    """Return a copy of a checkpoint."""
    from edge.training.checkpoint import write_checkpoint

    write_checkpoint(tmp_path / "checkpoint.pt", digits_checkpoint)
    return tmp_path / "checkpoint.pt"


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let `edge bench` in this process repeat its measurement in two processes."""
    monkeypatch.setattr("edge.measure.bench.LAUNCHES", 2)
    return 2
