"""Checkpoints and states of another version are refused with the remedy to train again."""

from pathlib import Path

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
    expected = f"has checkpoint version {version}, this installation reads {CHECKPOINT_VERSION}; train again"
    with pytest.raises(CheckpointError, match=expected):
        read_checkpoint(tmp_path / CHECKPOINT)


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
