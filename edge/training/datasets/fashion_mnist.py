"""Fashion-MNIST (Xiao et al., arXiv 1708.07747): 70,000 gray images of clothes, 28x28, in ten classes."""

import dataclasses
import gzip
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.training.datasets.base import LabelledImages, content_digests

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION = (Path("data/FashionMNIST/raw"), Path(os.path.expanduser("~/data/FashionMNIST/raw")))
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
IDX_MAGIC = {3: 2051, 1: 2049}
"""First number of an idx file of 8-bit values, by its number of dimensions."""
SIZE = 28
SMALL_CLASSES, SMALL_POOL, SMALL_TEST = 9, 216, 152
"""Classes, and images per class outside and inside the test split; 70 % of the former are for training."""


def load(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return Fashion-MNIST from `path`, the Debian package, or torchvision's download folder.

    Raises:
        DataError: the dataset is not in these folders, its files are damaged, or `image_size` is not 28.
    """
    if image_size not in (None, SIZE):
        raise DataError(f"Fashion-MNIST has images of {SIZE} pixels, not {image_size}; leave out --image-size")
    folder = _find_folder(path)
    parts = [_load_part(folder, name) for name in ("train", "t10k")]
    frames = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    train_count = len(parts[0][0])
    return LabelledImages(
        name="fashion-mnist",
        frames=frames,
        labels=labels,
        classes=CLASSES,
        kind="image",
        colour="gray",
        size=(1, SIZE, SIZE),
        digests=content_digests(frames),
        fixed_splits={"test": np.arange(train_count, len(frames))},
        augment=("shift", "mirror"),
    )


def load_small(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return the first nine classes with about 1,360 images each for training and test.

    The size of the dataset that Explanation-Guided Training was published on (arXiv 2601.08891), which is not public.

    Raises:
        DataError: the dataset is missing or damaged, or `image_size` is not 28.
    """
    whole = load(path, image_size)
    is_test = np.zeros(len(whole.labels), dtype=bool)
    is_test[whole.fixed_splits["test"]] = True
    selected = np.concatenate(
        [
            np.flatnonzero((whole.labels == label) & (is_test == from_test))[:count]
            for label in range(SMALL_CLASSES)
            for from_test, count in ((False, SMALL_POOL), (True, SMALL_TEST))
        ]
    )
    return dataclasses.replace(
        whole,
        name="fashion-mnist-small",
        frames=np.asarray(whole.frames)[selected],
        labels=whole.labels[selected],
        classes=CLASSES[:SMALL_CLASSES],
        digests=[whole.digests[index] for index in selected],
        fixed_splits={"test": np.flatnonzero(is_test[selected])},
    )


def _find_folder(path: Path | None) -> Path:
    """Return the first candidate folder that holds the dataset."""
    candidates = [path, path / "FashionMNIST/raw"] if path else [DEBIAN, *TORCHVISION]
    for candidate in candidates:
        if any(candidate.glob("train-images-idx3-ubyte*")):
            return candidate
    searched = ", ".join(str(candidate) for candidate in candidates)
    raise DataError(
        f"Fashion-MNIST is not in {searched}; install it with `sudo apt-get install dataset-fashion-mnist`, "
        "or give --data the folder of its four idx files"
    )


def _load_part(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = _read(folder, f"{name}-images-idx3-ubyte"), _read(folder, f"{name}-labels-idx1-ubyte")
    if len(images) != len(labels) or images.shape[1:] != (SIZE, SIZE) or labels.max(initial=0) >= len(CLASSES):
        raise DataError(
            f"{folder} has {name} images {images.shape} and labels {labels.shape} up to {labels.max(initial=0)}; "
            f"Fashion-MNIST has a label from 0 to {len(CLASSES) - 1} per image of {SIZE}x{SIZE}; install it again"
        )
    return images, labels


def _read(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read one idx file, compressed or not."""
    path = folder / f"{name}.gz"
    try:
        content = gzip.decompress(path.read_bytes()) if path.exists() else (folder / name).read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{folder / name} cannot be read ({error}); install the dataset again") from error
    dimensions = 3 if "images" in name else 1
    header_bytes = 4 * (1 + dimensions)
    header = np.frombuffer(content[:header_bytes].ljust(header_bytes, b"\0"), dtype=">i4")
    values = np.frombuffer(content[header_bytes:], dtype=np.uint8)
    is_complete = len(content) >= header_bytes and values.size == np.prod(header[1:].astype(np.int64))
    if header[0] != IDX_MAGIC[dimensions] or not is_complete:
        raise DataError(f"{folder / name} is not a complete idx file; install the dataset again")
    return values.reshape(header[1:])
