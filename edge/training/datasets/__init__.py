"""Labelled images from wherever they come; one file per dataset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.preprocess import Frame


class Frames(Protocol):
    """Frames by index: an array of them, or something that reads them from files."""

    def __len__(self) -> int:
        """Return their number."""

    def __getitem__(self, index: int, /) -> Frame:
        """Return one frame."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Frames with labels, as they are before any preprocessing."""

    name: str
    frames: Frames
    """As a source would give them; reading one may decode a file."""
    labels: NDArray[np.int64]
    """Classes, shape (samples,)."""
    classes: tuple[str, ...]
    kind: Literal["image", "array"]
    colour: Literal["rgb", "gray"] | None
    size: tuple[int, int, int]
    """Channels, height and width the network is to read."""
    digests: Sequence[str]
    """A digest of each sample's content."""
    fixed_splits: Mapping[str, NDArray[np.intp]] = field(default_factory=dict)
    """Indices of the splits that are not to be drawn, such as the test split of the dataset's authors."""
    from_files: bool = False
    """Whether reading a frame decodes a file, which other processes may then do."""
    mirror: bool = False
    """Whether a mirrored image is still of its class, so that training may mirror it."""


Loader = Callable[[Path | None, int | None], LabelledImages]
"""Takes the folder the user named, if any, and the image size the user asked for, if any."""


def load_dataset(name: str, path: Path | None = None, image_size: int | None = None) -> LabelledImages:
    """Return a dataset by name.

    Args:
        name: One of `dataset_names()`.
        path: Where its files are; each dataset knows where to look else.
        image_size: Height and width of the network's input, where the dataset leaves a choice.

    Raises:
        DataError: there is no such dataset, its files are missing, or they cannot be used.
    """
    loaders = _loaders()
    if name not in loaders:
        raise DataError(f"unknown dataset {name!r}; there are {', '.join(loaders)}")
    return loaders[name](path, image_size)


def dataset_names() -> tuple[str, ...]:
    """Return the names `load_dataset` knows."""
    return tuple(_loaders())


def _loaders() -> dict[str, Loader]:
    from edge.training.datasets import digits, fashion_mnist, folder, indian_pines

    return {
        "digits": digits.load,
        "fashion-mnist": fashion_mnist.load,
        "fashion-mnist-small": fashion_mnist.load_small,
        "indian-pines": indian_pines.load,
        "indian-pines-disjoint": indian_pines.load_disjoint,
        "folder": folder.load,
    }
