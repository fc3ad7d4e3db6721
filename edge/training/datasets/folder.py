"""Your own images: a folder with a subfolder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle.sample_ids import content_digest
from edge.console import track
from edge.errors import DataError, SourceError
from edge.frames.files import IMAGE_SUFFIXES, files_in, read_frame
from edge.training.datasets.base import LabelledImages

SIZE = 64
LAYOUT = "give --data a folder with a subfolder of images for each class"


class ImageFiles:
    """Images that are decoded when they are asked for, as the device decodes them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Name the files."""
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
    """Return the images below `path`, read by the network at 64x64 (or `image_size`) pixels in colour.

    Subfolders are classes, in the order of their names; what lies deeper belongs to them too, and what is hidden is
    left out. Every image is decoded once here, so that a damaged one is found before a long training, not during it.

    Raises:
        DataError: there is no such folder, it has fewer than two classes, a class has no images, an image is damaged
            or in two classes.
    """
    size = SIZE if image_size is None else image_size
    if size < 1:
        raise DataError(
            f"an image size of {size} pixels is not possible; choose a positive one, or leave it out for {SIZE}"
        )
    folders = _class_folders(path)
    found = [_images_in(folder) for folder in folders]
    paths = [path for members in found for path in members]
    files = ImageFiles(paths)
    labels = np.repeat(np.arange(len(folders), dtype=np.int64), [len(members) for members in found])
    return LabelledImages(
        name="folder",
        frames=files,
        labels=labels,
        classes=tuple(folder.name for folder in folders),
        kind="image",
        colour="rgb",
        size=(3, size, size),
        digests=_checked_digests(files, paths, labels),
        from_files=True,
    )


def _class_folders(path: Path | None) -> list[Path]:
    if path is None:
        raise DataError(f"the dataset 'folder' does not know where your images are; {LAYOUT}")
    if not path.is_dir():
        raise DataError(f"there is no folder {path}; {LAYOUT}")
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise DataError(f"{path} has no subfolders; {LAYOUT}")
    if len(folders) == 1:
        raise DataError(f"{path} has only one class, {folders[0].name!r}, and a classifier needs two or more; {LAYOUT}")
    return folders


def _images_in(folder: Path) -> list[Path]:
    paths = [path for path in files_in(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise DataError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)}); add some, or remove the folder")
    return paths


def _checked_digests(files: ImageFiles, paths: Sequence[Path], labels: NDArray[np.int64]) -> list[str]:
    """Decode every image, to find damaged ones, and return a digest of each file.

    Raises:
        DataError: an image is damaged, or the same one is in two classes.
    """
    digests: list[str] = []
    first_with: dict[str, int] = {}
    for index in track(range(len(paths)), "checking images"):
        files[index]  # raises where the image is damaged
        digests.append(content_digest(paths[index].read_bytes()))
        first = first_with.setdefault(digests[-1], index)
        if labels[first] != labels[index]:
            raise DataError(f"{paths[first]} and {paths[index]} are the same image in two classes; remove one")
    return digests
