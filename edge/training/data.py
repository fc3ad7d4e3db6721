"""Frames to training tensors, through the same preprocessing as on the device."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from edge.bundle.manifest import InputSpec
from edge.frames.base import frame_from_array
from edge.frames.preprocess import preprocess_for
from edge.system import usable_cores
from edge.training.datasets.base import LabelledImages

Batch = tuple[Tensor, Tensor]
"""Images, float32, shape (batch, channels, height, width), and labels, shape (batch,)."""
MAX_MEASURED_SAMPLES = 2000
"""Training samples that the input's mean and standard deviation are computed from."""


class PreprocessedImages(Dataset[Batch]):
    """Samples of a dataset as network input with labels.

    Frames in memory are preprocessed once; frames in files are preprocessed at every access.
    """

    def __init__(self, images: LabelledImages, indices: NDArray[np.intp], spec: InputSpec) -> None:
        """Select samples by their indices."""
        self.from_files = images.from_files
        self._images = images
        self._indices = indices
        self._spec = spec
        self._labels = torch.from_numpy(images.labels[indices])
        self._inputs = None if images.from_files else torch.from_numpy(preprocessed(images, indices, spec))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._indices)

    def __getitem__(self, position: int) -> Batch:
        """Return one sample and its label."""
        images, labels = self.__getitems__([position])
        return images[0], labels[0]

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Return several samples as one batch."""
        selected = torch.as_tensor(positions)
        if self._inputs is None:
            images = torch.from_numpy(preprocessed(self._images, self._indices[selected.numpy()], self._spec))
        else:
            images = self._inputs[selected]
        return images, self._labels[selected]


def batches(dataset: PreprocessedImages, batch_size: int) -> DataLoader[Batch]:
    """Load all samples in order."""
    return DataLoader(dataset, batch_size, collate_fn=_identity, num_workers=_workers(dataset))


def training_batches(
    dataset: PreprocessedImages, batch_size: int, seed: int, process: int = 0, processes: int = 1
) -> DataLoader[Batch]:
    """Load this process's share of each batch, in a new order each epoch; an incomplete last batch is dropped.

    Call `sampler.set_epoch` before each epoch. All processes together load the batches that a single process would.
    """
    order: DistributedSampler[Batch] = DistributedSampler(
        dataset, num_replicas=processes, rank=process, shuffle=True, seed=seed, drop_last=True
    )
    return DataLoader(
        dataset, batch_size // processes, sampler=order, drop_last=True, collate_fn=_identity,
        num_workers=_workers(dataset),
    )  # fmt: skip


def measured_input(images: LabelledImages, train: NDArray[np.intp]) -> InputSpec:
    """Return the network's input, with mean and standard deviation of at most 2,000 training samples."""
    channels, height, width = images.size
    unscaled = InputSpec(images.kind, images.colour, channels, height, width, (0.0,) * channels, (1.0,) * channels)
    step = math.ceil(len(train) / MAX_MEASURED_SAMPLES)
    values = preprocessed(images, train[::step], unscaled)
    mean = values.mean(axis=(0, 2, 3), dtype=np.float64)
    std = np.maximum(values.std(axis=(0, 2, 3), dtype=np.float64), 1e-6)
    return InputSpec(images.kind, images.colour, channels, height, width, tuple(mean.tolist()), tuple(std.tolist()))


def preprocessed(
    images: LabelledImages, indices: Sequence[int] | NDArray[np.intp], spec: InputSpec
) -> NDArray[np.float32]:
    """Return samples as network input, shape (samples, channels, height, width)."""
    out = np.empty((len(indices), *spec.shape), dtype=np.float32)
    preprocess = preprocess_for(spec)
    for position, index in enumerate(indices):
        preprocess(frame_from_array(images.frames[int(index)], spec.kind), out[position])
    return out


def _identity(batch: Any) -> Any:
    """Collate nothing: `PreprocessedImages` returns whole batches."""
    return batch


def _workers(dataset: PreprocessedImages) -> int:
    """Return the number of worker processes, which are used to decode files."""
    return usable_cores() if dataset.from_files else 0
