"""What a bundle is made from: a trained network and the samples it was, and was not, trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle.sample_ids import Digests, short_digests
from edge.errors import DataError
from edge.frames.base import Frame, frame_from_array
from edge.frames.labelled import InputDigest
from edge.training.checkpoint import Checkpoint
from edge.training.data import preprocessed
from edge.training.datasets import load_dataset
from edge.training.datasets.base import LabelledImages
from edge.training.splits import Splits, draw_splits, split_specs


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A checkpoint with its dataset, split as it was for training."""

    checkpoint: Checkpoint
    images: LabelledImages
    splits: Splits

    def some(self, split: str, most: int | None) -> NDArray[np.intp]:
        """Return indices of up to so many of a split's samples, evenly spread: datasets lie sorted by class."""
        indices = self.splits[split]
        count = len(indices) if most is None else min(most, len(indices))
        return indices[np.linspace(0, len(indices) - 1, count).astype(np.intp)]

    def frames(self, split: str, most: int | None = None) -> Iterator[Frame]:
        """Yield a split's samples, or `some` of them, as a source would give them."""
        kind = self.checkpoint.input.kind
        return (frame_from_array(self.images.frames[int(index)], kind) for index in self.some(split, most))

    def inputs(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return samples as network input, shape (samples, channels, height, width)."""
        return preprocessed(self.images, indices, self.checkpoint.input)

    def labels(self, split: str, most: int | None = None) -> NDArray[Any]:
        """Return the classes of a split's samples, or of `some` of them."""
        return self.images.labels[self.some(split, most)]

    def digests(self, split: str) -> Digests:
        """Return digests of a split's samples, shape (samples,): of their files, else of what the network reads."""
        if self.images.from_files:
            return short_digests(self.images.digests[int(index)] for index in self.splits[split])
        digest = InputDigest(self.checkpoint.input)
        return short_digests(digest(frame) for frame in self.frames(split))


def load_trained_model(checkpoint: Checkpoint, data: Path | None = None) -> TrainedModel:
    """Return a checkpoint with its dataset; the splits are drawn again and compared with their fingerprints.

    Args:
        checkpoint: The trained network.
        data: Folder of the dataset's files, if they moved since training.

    Raises:
        DataError: the dataset is missing or has changed since.
    """
    settings = checkpoint.settings
    path = data or (Path(settings.data) if settings.data else None)
    images = load_dataset(settings.dataset, path, settings.image_size)
    splits = draw_splits(images, settings.seed)
    if split_specs(images, splits) != checkpoint.splits:
        raise DataError(
            f"dataset {settings.dataset!r} is not what the network was trained on (other fingerprints); "
            "bring back the images as they were, or train again"
        )
    return TrainedModel(checkpoint, images, splits)
