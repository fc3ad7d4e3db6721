"""The state of an unfinished training run on disk, so that a killed run can be resumed."""

import dataclasses
from pathlib import Path
from typing import Any

from edge.bundle.manifest import SplitSpec
from edge.errors import CheckpointError
from edge.training.checkpoint import CHECKPOINT_VERSION, read_torch, write_torch
from edge.training.settings import Settings


class StateFile:
    """The saved state of one run; a state with other settings, images, labels or checkpoint version is refused."""

    def __init__(self, path: Path, settings: Settings, splits: dict[str, SplitSpec]) -> None:
        """Identify the run by its settings and the fingerprints of its splits."""
        self._path = path
        self._origin = {
            "version": CHECKPOINT_VERSION,
            "settings": dataclasses.asdict(settings),
            "splits": {name: spec.fingerprint for name, spec in splits.items()},
        }

    def read(self) -> dict[str, Any] | None:
        """Return the saved state, or None if the file does not exist.

        Raises:
            CheckpointError: the state is damaged or belongs to another run.
        """
        if not self._path.exists():
            return None
        state = read_torch(self._path)
        if not isinstance(state, dict) or not all(_equal(state.get(name), self._origin[name]) for name in self._origin):
            raise CheckpointError(
                f"{self._path} is from an unfinished run with other settings, images or labels, or of another version; "
                "finish that run, choose another output, or delete the file"
            )
        return state

    def write(self, state: dict[str, Any]) -> None:
        """Replace the saved state. An interrupted write leaves the previous one."""
        write_torch(self._path, self._origin | state)


def _equal(value: Any, expected: Any) -> bool:
    """Compare plain values; tensors, which compare elementwise, are never equal."""
    return type(value) is type(expected) and repr(value) == repr(expected)
