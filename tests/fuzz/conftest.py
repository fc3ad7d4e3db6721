"""Valid material to mutate, from the networks that other tests train."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge.bundle.bundle import Bundle

if TYPE_CHECKING:
    from edge.training.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def base(digits_bundle: Bundle, digits_checkpoint: "Checkpoint", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as `make_base` makes it."""
    from edge.training.checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("fuzz") / "base"
    shutil.copytree(digits_bundle.path, folder / "bundle")
    write_checkpoint(folder / "checkpoint.pt", digits_checkpoint)
    return folder
