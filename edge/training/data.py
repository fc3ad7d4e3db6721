"""Frames to training tensors, through the very preprocessing the device uses."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edge.machine import usable_cores
from edge.manifest import InputSpec
from edge.preprocess import preprocess_for
from edge.training.datasets import LabelledImages

SHIFT = 2
"""Training shifts images by up to this many pixels for each 32 of their size."""


class PreprocessedImages(Dataset[tuple[Tensor, Tensor]]):
    """Samples of a dataset as network input with labels."""

    def __init__(self, images: LabelledImages, indices: NDArray[np.intp], spec: InputSpec, *, augment: bool) -> None:
        """Choose samples; `augment` shifts images a little, and mirrors samples where the dataset allows it."""
        self.images = images
        self._indices = indices
        self._preprocess = preprocess_for(spec)
        self._shape = spec.shape
        self._shift = augment and images.kind == "image"  # an array's label may belong to its very centre
        self._mirror = augment and images.mirror

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Return one sample, float32 of shape (channels, height, width), and its label."""
        index = int(self._indices[position])
        image = np.empty(self._shape, dtype=np.float32)
        self._preprocess(self.images.frames[index], image)
        tensor = torch.from_numpy(image)
        if self._shift:
            tensor = _shifted(tensor)
        if self._mirror and torch.rand(()) < 0.5:
            tensor = tensor.flip(-1)
        return tensor, torch.tensor(self.images.labels[index])


def batches(dataset: PreprocessedImages, batch_size: int, *, shuffle: bool) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return a loader; samples that must be decoded from files are decoded by other processes."""
    workers = usable_cores() if dataset.images.from_files else 0
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, drop_last=shuffle, num_workers=workers)


def measured_input(images: LabelledImages, train: NDArray[np.intp]) -> InputSpec:
    """Return the network's input with the mean and standard deviation of (at most 2,000) training samples."""
    channels, height, width = images.size
    plain = InputSpec(images.kind, images.colour, channels, height, width, (0.0,) * channels, (1.0,) * channels)
    some = train[:: -(-len(train) // 2000)]
    values = np.stack(list(_preprocessed(images, some, plain)))
    mean = values.mean(axis=(0, 2, 3), dtype=np.float64)
    std = np.maximum(values.std(axis=(0, 2, 3), dtype=np.float64), 1e-6)
    return InputSpec(images.kind, images.colour, channels, height, width, tuple(mean.tolist()), tuple(std.tolist()))


def preprocessed(
    images: LabelledImages, indices: Sequence[int] | NDArray[np.intp], spec: InputSpec
) -> NDArray[np.float32]:
    """Return samples as network input, shape (samples, channels, height, width)."""
    return np.stack(list(_preprocessed(images, indices, spec)))


def _preprocessed(
    images: LabelledImages, indices: Sequence[int] | NDArray[np.intp], spec: InputSpec
) -> Iterator[NDArray[np.float32]]:
    preprocess = preprocess_for(spec)
    for index in indices:
        out = np.empty(spec.shape, dtype=np.float32)
        preprocess(images.frames[int(index)], out)
        yield out


def _shifted(image: Tensor) -> Tensor:
    """Shift by a random number of pixels; what comes in at the edges is the image's darkest value."""
    height, width = image.shape[-2:]
    reach = max(1, SHIFT * min(height, width) // 32)
    padded = torch.nn.functional.pad(image, (reach,) * 4, value=float(image.min()))
    top, left = torch.randint(0, 2 * reach + 1, (2,)).tolist()
    return padded[:, top : top + height, left : left + width]
