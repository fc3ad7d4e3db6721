"""What many tests share: a network trained for a moment on real digits, compiled, and engines away from the user's."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge.bundle import Bundle

if TYPE_CHECKING:
    from edge.training.checkpoint import Checkpoint


@pytest.fixture(scope="session", autouse=True)
def _own_engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_CACHE", str(tmp_path_factory.mktemp("engines")))
        yield


@pytest.fixture(scope="session")
def digits_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> "Checkpoint":
    """Return the three-exit CNN after one epoch on the digits: better than guessing, and far from sure."""
    from edge.training.checkpoint import Settings
    from edge.training.recipe import train

    settings = Settings(
        dataset="digits",
        data=None,
        image_size=None,
        backbone="cnn",
        truncated_at=None,
        regime="joint",
        attention_weight=0.1,
        epochs=1,
        batch_size=32,
        learning_rate=3e-3,
        seed=0,
    )
    return train(settings, tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="session")
def digits_bundle(digits_checkpoint: "Checkpoint", tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return that network as a bundle in every precision."""
    from compile.recipe import PRECISIONS, compile_bundle

    path: Path = tmp_path_factory.mktemp("compiled") / "bundle"
    return compile_bundle(digits_checkpoint, path, precisions=PRECISIONS, max_drop=0.01)
