"""Fashion-MNIST (Xiao et al., arXiv 1708.07747): 70,000 gray images of clothes, 28x28, in ten classes."""

import dataclasses
import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.training.datasets.base import LabelledImages, content_digests

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION = (Path("data/FashionMNIST/raw"), Path.home() / "data/FashionMNIST/raw")
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
IDX_MAGIC = {3: 2051, 1: 2049}
"""First number of a file of 8-bit values, by its dimensions."""
SIZE = 28
SMALL_CLASSES, SMALL_FREE, SMALL_TEST = 9, 216, 152
"""Classes, and images of each to share out and to test with; 70 % of the former are trained on."""


def load(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return Fashion-MNIST from `path`, the Debian package, or where torchvision keeps it.

    Raises:
        DataError: it is in none of these places, or its files are damaged.
    """
    if image_size not in (None, SIZE):
        raise DataError(f"Fashion-MNIST has images of {SIZE} pixels, not {image_size}; leave out the image size")
    folder = _folder(path)
    parts = [_part(folder, name) for name in ("train", "t10k")]
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
        mirror=True,
    )


def load_small(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return the first nine classes with so few images that training and test have about 1,360 each.

    As many as Explanation-Guided Training was published on (arXiv 2601.08891), whose images are not to be had.

    Raises:
        DataError: as `load` does.
    """
    whole = load(path, image_size)
    is_test = np.zeros(len(whole.labels), dtype=bool)
    is_test[whole.fixed_splits["test"]] = True
    chosen = np.concatenate(
        [
            np.flatnonzero((whole.labels == label) & (is_test == from_test))[:count]
            for label in range(SMALL_CLASSES)
            for from_test, count in ((False, SMALL_FREE), (True, SMALL_TEST))
        ]
    )
    return dataclasses.replace(
        whole,
        name="fashion-mnist-small",
        frames=np.asarray(whole.frames)[chosen],
        labels=whole.labels[chosen],
        classes=CLASSES[:SMALL_CLASSES],
        digests=[whole.digests[index] for index in chosen],
        fixed_splits={"test": np.flatnonzero(is_test[chosen])},
    )


def _folder(path: Path | None) -> Path:
    candidates = [path, path / "FashionMNIST/raw"] if path else [DEBIAN, *TORCHVISION]
    for candidate in candidates:
        if any(candidate.glob("train-images-idx3-ubyte*")):
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise DataError(
        f"Fashion-MNIST is not in {looked}; bring it with: sudo apt-get install dataset-fashion-mnist "
        "(or name the folder of its four idx files)"
    )


def _part(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = _read(folder, f"{name}-images-idx3-ubyte"), _read(folder, f"{name}-labels-idx1-ubyte")
    if len(images) != len(labels) or images.shape[1:] != (SIZE, SIZE) or labels.max(initial=0) >= len(CLASSES):
        raise DataError(
            f"{folder} has {name} images {images.shape} and labels {labels.shape} up to {labels.max(initial=0)}; "
            f"Fashion-MNIST has as many labels as {SIZE}x{SIZE} images, from 0 to {len(CLASSES) - 1}: bring it again"
        )
    return images, labels


def _read(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read one idx file, compressed or not."""
    path = folder / f"{name}.gz"
    try:
        content = gzip.decompress(path.read_bytes()) if path.exists() else (folder / name).read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{folder / name} cannot be read ({error}); bring the dataset again") from error
    dimensions = 3 if "images" in name else 1
    header_bytes = 4 * (1 + dimensions)
    header = np.frombuffer(content[:header_bytes].ljust(header_bytes, b"\0"), dtype=">i4")
    values = np.frombuffer(content[header_bytes:], dtype=np.uint8)
    is_whole = len(content) >= header_bytes and values.size == np.prod(header[1:].astype(np.int64))
    if header[0] != IDX_MAGIC[dimensions] or not is_whole:
        raise DataError(f"{folder / name} is not a whole idx file; bring the dataset again")
    return values.reshape(header[1:])
