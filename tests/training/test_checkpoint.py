"""Checkpoints and states of another version are refused with the remedy to train again."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from edge.errors import CheckpointError
from edge.training.checkpoint import CHECKPOINT_VERSION, read_checkpoint
from edge.training.settings import Settings
from edge.training.state import StateFile
from edge.training.train import CHECKPOINT, train

SETTINGS = Settings(dataset="digits", image_size=12, epochs=1, batch_size=256)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    train(SETTINGS, folder)
    return folder / CHECKPOINT


def test_a_checkpoint_restores_the_network_of_the_run(trained: Path) -> None:
    checkpoint = read_checkpoint(trained)
    for name, tensor in checkpoint.network().state_dict().items():
        assert torch.equal(tensor, checkpoint.weights[name])


@pytest.mark.parametrize("version", [2, CHECKPOINT_VERSION + 1, None])
def test_a_checkpoint_of_another_version_is_refused(trained: Path, tmp_path: Path, version: int | None) -> None:
    data = torch.load(trained, weights_only=True)
    torch.save(data | {"version": version}, tmp_path / CHECKPOINT)
    expected = (
        f"has checkpoint version {version}, this installation reads {CHECKPOINT_VERSION}; delete it and train again"
    )
    with pytest.raises(CheckpointError, match=expected):
        read_checkpoint(tmp_path / CHECKPOINT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": torch.ones(3)}, "has checkpoint version Tensor"),
        ({"version": 10**400}, "has checkpoint version 1000"),
        ({"version": float(CHECKPOINT_VERSION)}, "has checkpoint version"),
        ({"input.channels": 10**9}, "do not fit its input of 1000000000 channels"),
        ({"input.height": 10**9}, "which no network reads"),
        ({"input.width": 0}, "sizes must be 1 or more"),
        ({"input.mean": torch.ones(3)}, "expected a list"),
        ({"classes": ["a"] * 10**6}, "do not fit its 1000000 classes"),
        ({"settings.epochs": torch.ones(2)}, "expected of type int"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_wrong_values_are_refused_before_memory_is_allocated(
    changes: dict[str, Any], message: str, trained: Path, tmp_path: Path
) -> None:
    data = torch.load(trained, weights_only=True)
    for name, value in changes.items():
        *parents, field = name.split(".")
        parent = data
        for key in parents:
            parent = parent[key]
        parent[field] = value
    torch.save(data, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / CHECKPOINT).network()


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(trained: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(trained) as source,
        zipfile.ZipFile(tmp_path / CHECKPOINT, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(tmp_path / CHECKPOINT)


def test_a_state_whose_settings_are_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    StateFile(path, SETTINGS, {}).write({})
    torch.save(torch.load(path, weights_only=True) | {"version": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match="of another version"):
        StateFile(path, SETTINGS, {}).read()


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    StateFile(path, SETTINGS, {}).write({"history": []})
    assert StateFile(path, SETTINGS, {}).read() is not None
    torch.save(torch.load(path, weights_only=True) | {"version": 2}, path)
    with pytest.raises(CheckpointError, match=r"of another version; .*delete the file"):
        StateFile(path, SETTINGS, {}).read()


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(b"no state")
    with pytest.raises(CheckpointError, match="is damaged"):
        StateFile(path, SETTINGS, {}).read()
