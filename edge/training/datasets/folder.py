"""The user's own images: a folder with a subfolder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle.sample_ids import content_digest
from edge.console import track
from edge.errors import DataError, SourceError
from edge.frames.files import IMAGE_SUFFIXES, read_frame
from edge.frames.labelled import class_folders
from edge.training.datasets.base import LabelledImages

SIZE = 64
LAYOUT = "give --data a folder with a subfolder of images for each class"


class ImageFiles:
    """Images decoded at every access, as on the device."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """List the files."""
        self._paths = paths

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._paths)

    def __getitem__(self, index: int, /) -> NDArray[Any]:
        """Return one image, BGR.

        Raises:
            DataError: the file cannot be decoded.
        """
        path = self._paths[index]
        try:
            return read_frame(path).pixels
        except SourceError as error:
            raise DataError(str(error)) from error


def load(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return the colour images of a folder, which the network reads at 64x64 (or `image_size`) pixels.

    Subfolders are classes, in the order of their names, with all images in and below them. Hidden files and folders
    are skipped. Every image is decoded once here, so that a damaged one is reported before a long training.

    Raises:
        DataError: the folder is missing or has fewer than two classes, a class has no images, or an image is damaged
            or in two classes.
    """
    size = SIZE if image_size is None else image_size
    if size < 1:
        raise DataError(
            f"an image size of {size} pixels is not possible; choose a positive size, or leave it out for {SIZE}"
        )
    images = _class_images(path)
    paths = [path for members in images.values() for path in members]
    files = ImageFiles(paths)
    labels = np.repeat(np.arange(len(images), dtype=np.int64), [len(members) for members in images.values()])
    return LabelledImages(
        name="folder",
        frames=files,
        labels=labels,
        classes=tuple(images),
        kind="image",
        colour="rgb",
        size=(3, size, size),
        digests=_validated_digests(files, paths, labels),
        from_files=True,
    )


def _class_images(folder: Path | None) -> dict[str, list[Path]]:
    """Return the image files of each class."""
    if folder is None:
        raise DataError(f"the dataset 'folder' needs the location of your images; {LAYOUT}")
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; {LAYOUT}")
    classes = class_folders(folder)
    if not classes:
        raise DataError(f"{folder} has no subfolders; {LAYOUT}")
    if len(classes) == 1:
        raise DataError(
            f"{folder} has only one class, {next(iter(classes))!r}; a classifier needs at least 2: {LAYOUT}"
        )
    images = {
        name: [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES] for name, files in classes.items()
    }
    for name, paths in images.items():
        if not paths:
            raise DataError(
                f"{folder / name} has no images ({', '.join(IMAGE_SUFFIXES)}); add some, or remove the folder"
            )
    return images


def _validated_digests(files: ImageFiles, paths: Sequence[Path], labels: NDArray[np.int64]) -> list[str]:
    """Decode every image to detect damaged files, and return the digest of each file.

    Raises:
        DataError: an image is damaged, or in two classes.
    """
    digests: list[str] = []
    first_index: dict[str, int] = {}
    for index in track(range(len(paths)), "checking images"):
        files[index]  # raises if the image is damaged
        digests.append(content_digest(paths[index].read_bytes()))
        first = first_index.setdefault(digests[-1], index)
        if labels[first] != labels[index]:
            raise DataError(f"{paths[first]} and {paths[index]} are the same image in two classes; remove one")
    return digests
