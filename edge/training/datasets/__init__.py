"""Labelled images by dataset name; one file per dataset."""

from collections.abc import Callable
from pathlib import Path

from edge.errors import DataError
from edge.training.datasets.base import LabelledImages

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
    from edge.training.datasets import cluttered_digits, digits, fashion_mnist, folder, indian_pines

    return {
        "digits": digits.load,
        "cluttered-digits": cluttered_digits.load,
        "fashion-mnist": fashion_mnist.load,
        "fashion-mnist-small": fashion_mnist.load_small,
        "indian-pines": indian_pines.load,
        "indian-pines-disjoint": indian_pines.load_disjoint,
        "folder": folder.load,
    }
