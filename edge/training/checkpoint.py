"""A trained network on disk, with everything needed to rebuild and evaluate it."""

import dataclasses
import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edge.bundle.decoding import decode
from edge.bundle.manifest import InputSpec, SplitSpec
from edge.bundle.validation import input_errors
from edge.errors import CheckpointError
from edge.storage import write_file
from edge.training.backbones import build_network
from edge.training.network import MultiExitNetwork
from edge.training.settings import Settings

CHECKPOINT_VERSION = 6
MAX_INPUT_VALUES = 1 << 26
"""Upper bound on the values of one input: 4,700 x 4,700 pixels in colour."""


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
        self._check_sizes()
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

    def _check_sizes(self) -> None:
        """Compare the network's sizes with the weights before memory is allocated for it."""
        spec, shapes = self.input, [weight.shape for weight in self.weights.values() if weight.ndim >= 2]
        if spec.channels > max((shape[1] for shape in shapes), default=0):
            raise CheckpointError(
                f"the checkpoint's weights do not fit its input of {spec.channels} channels; train again"
            )
        if not any(shape[0] == len(self.classes) for shape in shapes):
            raise CheckpointError(f"the checkpoint's weights do not fit its {len(self.classes)} classes; train again")
        for error in input_errors(spec):
            raise CheckpointError(f"the checkpoint's {error}; train again")
        if math.prod(spec.shape) > MAX_INPUT_VALUES:
            raise CheckpointError(f"the checkpoint's input has shape {spec.shape}, which no network reads; train again")


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
    if type(version) is not int or version != CHECKPOINT_VERSION:
        shown = version if version is None or isinstance(version, int | float | str) else type(version).__name__
        raise CheckpointError(
            f"{path} has checkpoint version {str(shown)[:40]}, this installation reads {CHECKPOINT_VERSION}; "
            "delete it and train again"
        )
    try:
        return decode(Checkpoint, {name: value for name, value in data.items() if name != "version"}, "checkpoint")
    except (ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: {str(error)[:300]}; train again, or install the version that made it") from None


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
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise zipfile.BadZipFile("compressed")  # torch never compresses: a small file may hold gigabytes
            if damaged_entry := archive.testzip():  # torch does not compare checksums
                raise zipfile.BadZipFile(damaged_entry)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and runtime errors, depending on where the damage is
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}); delete it and train again") from error
