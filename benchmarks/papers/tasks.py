"""Tasks of the comparison: images that are hard enough for training methods to differ.

The tasks on Fashion-MNIST have 12,000 training images, so that a network trains in half a minute and the whole one is
clearly better than its first exit. All other splits are those of the full dataset, clean and balanced.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edge.training.datasets import load_dataset
from edge.training.datasets.base import LabelledImages
from edge.training.settings import Settings
from edge.training.splits import draw_splits

TRAINING_IMAGES = 12_000
IMBALANCE = 100
"""Images of the most frequent class for each one of the rarest in the long-tailed task (Cui et al. 2019)."""
WRONG_LABELS = 0.2
"""Share of training images with a wrong label in the noisy task."""

Select = Callable[[LabelledImages, NDArray[np.intp], np.random.Generator], NDArray[np.intp]]


@dataclass(frozen=True, slots=True)
class Task:
    """Images, and the settings that every method shares on them."""

    load: Callable[[], LabelledImages]
    settings: Settings


def uniform(images: LabelledImages, train: NDArray[np.intp], generator: np.random.Generator) -> NDArray[np.intp]:
    """Select training images uniformly."""
    return generator.choice(train, TRAINING_IMAGES, replace=False)


def long_tail(images: LabelledImages, train: NDArray[np.intp], generator: np.random.Generator) -> NDArray[np.intp]:
    """Select training images whose class sizes fall exponentially, from the first class to the last."""
    shares = IMBALANCE ** -np.linspace(0, 1, len(images.classes))
    counts = np.round(TRAINING_IMAGES * shares / shares.sum()).astype(int)
    members = [generator.permutation(train[images.labels[train] == label]) for label in range(len(counts))]
    return np.concatenate([part[:count] for part, count in zip(members, counts, strict=True)])


def fashion(name: str, select: Select = uniform, wrong_labels: float = 0.0) -> LabelledImages:
    """Return Fashion-MNIST with a part of its training images, some of them mislabelled.

    The part and the wrong labels are the same for every seed of training.

    Raises:
        DataError: the dataset is not installed.
    """
    whole, generator = load_dataset("fashion-mnist"), np.random.default_rng(0)
    splits = draw_splits(whole, seed=0)
    train = select(whole, splits.pop("train"), generator)
    order = np.concatenate([train, *splits.values()])
    labels = whole.labels[order]
    wrong = generator.random(len(train)) < wrong_labels
    shift = generator.integers(1, len(whole.classes), len(train))
    labels[: len(train)] = np.where(wrong, (labels[: len(train)] + shift) % len(whole.classes), labels[: len(train)])
    ends = len(train) + np.cumsum([len(split) for split in splits.values()])
    return dataclasses.replace(
        whole,
        name=name,
        frames=np.asarray(whole.frames)[order],
        labels=labels,
        digests=[whole.digests[index] for index in order],
        fixed_splits={
            purpose: np.arange(end - len(splits[purpose]), end) for purpose, end in zip(splits, ends, strict=True)
        },
    )


_FASHION = Settings(dataset="fashion", backbone="cnn:12", epochs=6, batch_size=128, mixed_precision=True)
_PINES = Settings(dataset="indian-pines", backbone="cnn:12", epochs=20, batch_size=64, mixed_precision=True)
_LOADERS: dict[str, Callable[[], LabelledImages]] = {
    "fashion": partial(fashion, "fashion"),
    "fashion-long-tail": partial(fashion, "fashion-long-tail", long_tail),
    "fashion-noisy": partial(fashion, "fashion-noisy", wrong_labels=WRONG_LABELS),
    "indian-pines": partial(load_dataset, "indian-pines"),
    "indian-pines-disjoint": partial(load_dataset, "indian-pines-disjoint"),
}
TASKS = {
    name: Task(load, dataclasses.replace(_FASHION if name.startswith("fashion") else _PINES, dataset=name))
    for name, load in _LOADERS.items()
}
"""Tasks by name."""
