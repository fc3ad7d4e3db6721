"""What many tests share: a network trained for a moment on real digits, compiled, and engines away from the user's."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from edge.bundle import Bundle

if TYPE_CHECKING:
    from edge.training.checkpoint import Checkpoint

# Before anything imports torch. Threads of OpenMP spin while they wait: on a busy machine with few cores, training
# takes forty times longer with two of them than with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _own_engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither use nor fill the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_CACHE", str(tmp_path_factory.mktemp("cache") / "engines"))
        yield


@pytest.fixture(scope="session")
def digits_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> "Checkpoint":
    """Return the three-exit CNN after two epochs on small digits: mostly right, and seldom sure."""
    from edge.training.recipe import train
    from edge.training.settings import Settings

    settings = Settings(
        dataset="digits", image_size=16, attention_weight=0.1, epochs=2, batch_size=32, learning_rate=3e-3
    )
    return train(settings, tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="session")
def digits_bundle(digits_checkpoint: "Checkpoint", tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return that network as a bundle in fp32 and int8."""
    from calibration.thresholds import Promise
    from compile.recipe import compile_bundle

    output = tmp_path_factory.mktemp("compiled") / "bundle"
    promise = Promise(limit=0.01, method="none")
    return compile_bundle(digits_checkpoint, output, precisions=("fp32", "int8"), promise=promise)
