"""Labelled images on disk: a folder with a subfolder for each class."""

import logging
from pathlib import Path

import numpy as np

from edge.bundle.manifest import InputSpec
from edge.bundle.sample_ids import content_digest
from edge.errors import DataError
from edge.frames.base import Frame
from edge.frames.files import files_in
from edge.frames.preprocess import preprocess_for

log = logging.getLogger(__name__)


class InputDigest:
    """Digest of a sample's network input, independent of its file format."""

    def __init__(self, spec: InputSpec) -> None:
        """Allocate the network input."""
        self._preprocess, self._input = preprocess_for(spec), np.empty(spec.shape, dtype=np.float32)

    def __call__(self, frame: Frame) -> str:
        """Return the digest of one frame."""
        self._preprocess(frame, self._input)
        return content_digest(self._input.tobytes())


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the images and arrays in and below each class's subfolder, sorted.

    Hidden folders are ignored.

    Raises:
        DataError: the folder is missing.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give a folder with a subfolder of images for each class")
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {subfolder.name: files_in(subfolder) for subfolder in subfolders}


def labelled_files(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    """Return the images in a folder of class folders, and the class index of each image.

    Raises:
        DataError: a subfolder is not named like a class, or there are no images.
    """
    paths, labels = [], []
    for name, files in class_folders(folder).items():
        if name not in classes:
            raise DataError(f"{folder / name} is not named like a label; rename it to one of {', '.join(classes)}")
        if not files:
            log.warning("%s has no images", folder / name)
        paths += files
        labels += [classes.index(name)] * len(files)
    if not paths:
        raise DataError(f"{folder} has no images; add some in subfolders named {', '.join(classes)}")
    return paths, labels
