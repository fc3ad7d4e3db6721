"""Labelled images by dataset name; one file per dataset."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from edge.errors import DataError
from edge.training.datasets.base import LabelledImages

Loader = Callable[[Path | None, int | None], LabelledImages]
"""Takes the folder and the image size; None for the dataset's defaults."""


def load_dataset(
    name: str, path: Path | None = None, image_size: int | None = None, *, skip_bad: bool = False
) -> LabelledImages:
    """Return a dataset by name.

    Args:
        name: One of `dataset_names()`.
        path: Folder of its files; None for the dataset's default locations.
        image_size: Height and width of the network's input, for datasets that support several; None for the default.
        skip_bad: Leave out images of `folder` that cannot be read.

    Raises:
        DataError: the dataset is unknown, or its files are missing or unusable.
    """
    loaders = _loaders(skip_bad=skip_bad)
    if name not in loaders:
        raise DataError(f"unknown dataset {name!r}; the datasets are {', '.join(loaders)}")
    return loaders[name](path, image_size)


def dataset_names() -> tuple[str, ...]:
    """Return the names of all datasets."""
    return tuple(_loaders())


def _loaders(*, skip_bad: bool = False) -> dict[str, Loader]:
    from edge.training.datasets import cluttered_digits, digits, elpv, fashion_mnist, folder, indian_pines

    return {
        "digits": digits.load,
        "cluttered-digits": cluttered_digits.load,
        "fashion-mnist": fashion_mnist.load,
        "fashion-mnist-small": fashion_mnist.load_small,
        "indian-pines": indian_pines.load,
        "indian-pines-disjoint": indian_pines.load_disjoint,
        "elpv": elpv.load,
        "elpv-4": elpv.load_grades,
        "folder": partial(folder.load, skip_bad=skip_bad),
    }
