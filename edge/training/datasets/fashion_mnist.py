"""Fashion-MNIST (Xiao et al., arXiv 1708.07747): 70,000 gray images of clothes, 28x28, in ten classes."""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.training.datasets import LabelledImages
from edge.training.splits import content_digests

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION = (Path("data/FashionMNIST/raw"), Path.home() / "data/FashionMNIST/raw")
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
IDX_MAGIC = {"images": 2051, "labels": 2049}


def load(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return Fashion-MNIST from `path`, the Debian package, or where torchvision keeps it.

    Raises:
        DataError: it is in none of these places, or its files are damaged.
    """
    if image_size not in (None, 28):
        raise DataError(f"Fashion-MNIST has images of 28 pixels, not {image_size}; leave out the image size")
    folder = _folder(path)
    parts = [
        (_read(folder, f"{part}-images-idx3-ubyte"), _read(folder, f"{part}-labels-idx1-ubyte"))
        for part in ("train", "t10k")
    ]
    frames = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    if len(frames) != len(labels):
        raise DataError(f"{folder} has {len(frames)} images but {len(labels)} labels; bring the dataset again")
    train_count = len(parts[0][0])
    return LabelledImages(
        name="fashion-mnist",
        frames=frames,
        labels=labels,
        classes=CLASSES,
        kind="image",
        colour="gray",
        size=(1, 28, 28),
        digests=content_digests(frames),
        official_test=np.arange(train_count, len(frames)),
        mirror=True,
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


def _read(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read one idx file, compressed or not."""
    path = folder / f"{name}.gz"
    try:
        content = gzip.decompress(path.read_bytes()) if path.exists() else (folder / name).read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{folder / name} cannot be read ({error}); bring the dataset again") from error
    dimensions = 3 if "images" in name else 1
    header = np.frombuffer(content[: 4 * (1 + dimensions)], dtype=">i4")
    shape = tuple(int(size) for size in header[1:])
    data = np.frombuffer(content, dtype=np.uint8, offset=min(len(content), 4 * (1 + dimensions)))
    if (
        len(header) != 1 + dimensions
        or header[0] != IDX_MAGIC["images" if dimensions == 3 else "labels"]
        or data.size != np.prod(shape)
    ):
        raise DataError(f"{folder / name} is not a whole idx file; bring the dataset again")
    return data.reshape(shape)
