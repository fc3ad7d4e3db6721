"""Batches of a dataset's samples, and the mean and standard deviation that normalise them."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from edge.bundle.manifest import InputSpec
from edge.console import log
from edge.errors import DataError
from edge.training.datasets.base import LabelledImages
from edge.training.loading import Batch, Loader, PreprocessedImages, preprocessed

MAX_MEASURED_SAMPLES = 2000
"""Training samples that the input's mean and standard deviation are computed from."""
MIN_STD = 0.02
"""Lower bound on an image channel's standard deviation, five steps of 8 bits.

Division by less would turn an invisible change of an image into input far outside the training range.
"""
MIN_RELATIVE_STD = 1e-3
"""Lower bound on an array channel's standard deviation, as a share of its mean."""
CHANNEL_NAMES = {"rgb": ("red", "green", "blue"), "gray": ("gray",)}
BATCH_BYTES = 64 << 20
"""Largest size of a batch for evaluation."""


def batches(dataset: PreprocessedImages, batch_size: int, workers: int | None = None) -> Loader:
    """Load all samples in order, in batches of at most `batch_size` samples and 64 MiB."""
    return Loader(dataset, max(1, min(batch_size, BATCH_BYTES // dataset.sample_bytes)), workers=workers)


def training_batches(
    dataset: PreprocessedImages,
    batch_size: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
    workers: int | None = None,
) -> Loader:
    """Load this process's share of each batch, in a new order each epoch; an incomplete last batch is dropped.

    Call `sampler.set_epoch` before each epoch. All processes together load the batches that a single process would.
    """
    order: DistributedSampler[Batch] = DistributedSampler(
        dataset, num_replicas=processes, rank=process, shuffle=True, seed=seed, drop_last=True
    )
    return Loader(dataset, batch_size // processes, workers=workers, sampler=order, drop_last=True)


def measured_input(images: LabelledImages, train: NDArray[np.intp]) -> InputSpec:
    """Return the network's input, with mean and standard deviation of at most 2,000 training samples.

    Raises:
        DataError: a sample at this size does not fit into memory.
    """
    channels, height, width = images.size
    unscaled = InputSpec(images.kind, images.colour, channels, height, width, (0.0,) * channels, (1.0,) * channels)
    selected = train[:: math.ceil(len(train) / MAX_MEASURED_SAMPLES)]
    total, squares = np.zeros(channels), np.zeros(channels)
    try:
        step = max(1, BATCH_BYTES // (4 * math.prod(unscaled.shape)))
        for start in range(0, len(selected), step):
            values = preprocessed(images, selected[start : start + step], unscaled)
            total += values.mean(axis=(2, 3), dtype=np.float64).sum(axis=0)
            squares += np.square(values, dtype=np.float64).mean(axis=(2, 3)).sum(axis=0)
    except (MemoryError, cv2.error) as error:
        raise DataError(
            f"an input of {height}x{width} pixels does not fit into memory ({error}); choose a smaller --image-size"
        ) from error
    mean = total / len(selected)
    measured = np.sqrt(np.maximum(squares / len(selected) - np.square(mean), 0))
    std = np.maximum(measured, _min_std(images.kind, mean))
    _warn_of_constant_channels(images, measured, std)
    return InputSpec(images.kind, images.colour, channels, height, width, tuple(mean.tolist()), tuple(std.tolist()))


def _min_std(kind: str, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    if kind == "image":
        return np.full(len(mean), MIN_STD)
    return np.maximum(MIN_RELATIVE_STD * np.abs(mean), 1e-6)


def _warn_of_constant_channels(
    images: LabelledImages, measured: NDArray[np.float64], used: NDArray[np.float64]
) -> None:
    names = CHANNEL_NAMES[images.colour] if images.colour else [f"channel {k}" for k in range(len(measured))]
    constant = [
        f"{name} ({value:.2g})" for name, value, floor in zip(names, measured, used, strict=True) if value < floor
    ]
    if constant:
        log(
            "warning: these channels hardly change over the training images (standard deviation in parentheses): "
            f"{', '.join(constant)}; the network cannot learn from them: check the images"
        )
