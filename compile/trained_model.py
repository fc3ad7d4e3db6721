"""Input of the compiler: a checkpoint with its dataset, split as for training."""

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
from edge.training.datasets import load_dataset
from edge.training.datasets.base import LabelledImages
from edge.training.loading import preprocessed
from edge.training.splits import Splits, draw_splits, split_specs


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A checkpoint with its dataset and splits."""

    checkpoint: Checkpoint
    images: LabelledImages
    splits: Splits

    def sample_indices(self, split: str, max_samples: int | None = None) -> NDArray[np.intp]:
        """Return the indices of a split's samples, or of `max_samples` of them.

        They are evenly spaced, because datasets are sorted by class.
        """
        indices = self.splits[split]
        count = len(indices) if max_samples is None else min(max_samples, len(indices))
        return indices[np.linspace(0, len(indices) - 1, count).astype(np.intp)]

    def frames(self, split: str, max_samples: int | None = None) -> Iterator[Frame]:
        """Yield the frames of `sample_indices`, as a source yields them."""
        return self.frames_at(self.sample_indices(split, max_samples))

    def frames_at(self, indices: NDArray[np.intp]) -> Iterator[Frame]:
        """Yield the frames of these samples, as a source yields them."""
        kind = self.checkpoint.input.kind
        return (frame_from_array(self.images.frames[int(index)], kind) for index in indices)

    def inputs(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return samples as network input, shape (samples, channels, height, width)."""
        return preprocessed(self.images, indices, self.checkpoint.input)

    def each_input(self, indices: NDArray[np.intp]) -> Iterator[NDArray[np.float32]]:
        """Yield samples as network input, one at a time, each of shape (channels, height, width)."""
        return (self.inputs(indices[k : k + 1])[0] for k in range(len(indices)))

    def labels(self, split: str, max_samples: int | None = None) -> NDArray[Any]:
        """Return the true classes of `sample_indices`."""
        return self.images.labels[self.sample_indices(split, max_samples)]

    def copy_digests(self, split: str) -> Digests:
        """Return `digests` of a split's samples and, for files, of all others with the same pixels."""
        images = self.images
        if not images.from_files:
            return self.digests(split)
        used = {images.copy_digests[int(index)] for index in self.splits[split]}
        pairs = zip(images.digests, images.copy_digests, strict=True)
        return short_digests(digest for digest, copy in pairs if copy in used)

    def digests(self, split: str) -> Digests:
        """Return digests of a split's samples, shape (samples,): of their files, if any, else of their inputs."""
        if self.images.from_files:
            return short_digests(self.images.digests[int(index)] for index in self.splits[split])
        digest = InputDigest(self.checkpoint.input)
        return short_digests(digest(frame) for frame in self.frames(split))


def load_trained_model(checkpoint: Checkpoint, data: Path | None = None) -> TrainedModel:
    """Load a checkpoint's dataset, draw its splits again and compare them with their fingerprints.

    Args:
        checkpoint: The trained network.
        data: Folder of the dataset's files, if they moved since training.

    Raises:
        DataError: the dataset is missing or has changed since training.
    """
    settings = checkpoint.settings
    path = data or (Path(settings.data) if settings.data else None)
    images = load_dataset(settings.dataset, path, settings.image_size, skip_bad=settings.skip_bad)
    splits = draw_splits(images, settings.seed, settings.fold)
    if split_specs(images, splits) != checkpoint.splits:
        raise DataError(
            f"dataset {settings.dataset!r} differs from the dataset that the network was trained on: its splits have "
            "other images or other labels; restore them, or train again"
        )
    return TrainedModel(checkpoint, images, splits)
