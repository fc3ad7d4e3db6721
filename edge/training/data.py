"""Frames to training tensors, through the very preprocessing the device uses."""

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
"""Images, float32 of shape (batch, channels, height, width), and labels, shape (batch,)."""


class PreprocessedImages(Dataset[Batch]):
    """Samples of a dataset as network input with labels.

    Frames that are in memory are preprocessed once, those in files whenever they are asked for.
    """

    def __init__(self, images: LabelledImages, indices: NDArray[np.intp], spec: InputSpec) -> None:
        """Choose samples."""
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
        chosen = torch.as_tensor(positions)
        if self._inputs is None:
            images = torch.from_numpy(preprocessed(self._images, self._indices[chosen.numpy()], self._spec))
        else:
            images = self._inputs[chosen]
        return images, self._labels[chosen]


def batches(dataset: PreprocessedImages, batch_size: int) -> DataLoader[Batch]:
    """Return all samples in order."""
    return DataLoader(dataset, batch_size, collate_fn=_as_it_is, num_workers=_workers(dataset))


def training_batches(
    dataset: PreprocessedImages, batch_size: int, seed: int, process: int = 0, processes: int = 1
) -> DataLoader[Batch]:
    """Return this process's part of each batch, in another order each epoch; an incomplete last batch is left out.

    Call `sampler.set_epoch` before each epoch. All processes together see what one process would.
    """
    order: DistributedSampler[Batch] = DistributedSampler(
        dataset, num_replicas=processes, rank=process, shuffle=True, seed=seed, drop_last=True
    )
    return DataLoader(
        dataset, batch_size // processes, sampler=order, drop_last=True, collate_fn=_as_it_is,
        num_workers=_workers(dataset),
    )  # fmt: skip


def measured_input(images: LabelledImages, train: NDArray[np.intp]) -> InputSpec:
    """Return the network's input with the mean and standard deviation of (at most 2,000) training samples."""
    channels, height, width = images.size
    plain = InputSpec(images.kind, images.colour, channels, height, width, (0.0,) * channels, (1.0,) * channels)
    values = preprocessed(images, train[:: -(-len(train) // 2000)], plain)
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


def _as_it_is(batch: Any) -> Any:
    return batch


def _workers(dataset: PreprocessedImages) -> int:
    """Files are decoded by other processes."""
    return usable_cores() if dataset.from_files else 0
