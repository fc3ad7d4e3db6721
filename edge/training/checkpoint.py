"""A trained network on disk, with everything needed to rebuild and evaluate it."""

import dataclasses
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edge.bundle.decoding import decode
from edge.bundle.manifest import InputSpec, SplitSpec
from edge.errors import CheckpointError
from edge.storage import write_file
from edge.training.backbones import build_network
from edge.training.network import MultiExitNetwork
from edge.training.settings import Settings

CHECKPOINT_VERSION = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights of a trained network, with its settings, data splits and metrics."""

    settings: Settings
    input: InputSpec
    classes: tuple[str, ...]
    splits: dict[str, SplitSpec]
    metrics: dict[str, Any]
    weights: dict[str, torch.Tensor]

    def network(self) -> MultiExitNetwork:
        """Return the network with its trained weights, in evaluation mode.

        Raises:
            CheckpointError: the weights belong to another architecture.
        """
        settings = self.settings
        network = build_network(settings.backbone, self.input.channels, len(self.classes), settings.truncated_at)
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            first_mismatch = " ".join(str(error).splitlines()[1:2]).strip()
            raise CheckpointError(
                f"the checkpoint's weights do not fit backbone {settings.backbone!r} of this installation "
                f"({first_mismatch}); train again, or install the version that made it"
            ) from None
        return network.eval()


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint. An interrupted write leaves the previous file."""
    data = {
        "version": CHECKPOINT_VERSION,
        "settings": dataclasses.asdict(checkpoint.settings),
        "input": dataclasses.asdict(checkpoint.input),
        "classes": list(checkpoint.classes),
        "splits": {name: dataclasses.asdict(spec) for name, spec in checkpoint.splits.items()},
        "metrics": checkpoint.metrics,
        "weights": checkpoint.weights,
    }
    write_torch(path, data)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged, or of another version.
    """
    data = read_torch(path)
    version = data.get("version") if isinstance(data, dict) else None
    if version != CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {version!r}, this installation reads {CHECKPOINT_VERSION}; train again"
        )
    try:
        return decode(Checkpoint, {name: value for name, value in data.items() if name != "version"}, "checkpoint")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; train again, or install the version that made it") from None


def write_torch(path: Path, data: dict[str, Any]) -> None:
    """Write tensors and plain values. An interrupted write leaves the previous file."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    write_file(path, buffer.getvalue())


def read_torch(path: Path) -> Any:
    """Read a file written by `write_torch`, without executing code from it.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; train one with `python -m edge.training`")
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged_entry := archive.testzip():  # torch does not compare checksums
                raise zipfile.BadZipFile(damaged_entry)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and runtime errors, depending on where the damage is
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}); delete it and train again") from error
