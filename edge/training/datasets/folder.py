"""The user's own images: a folder with a subfolder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.bundle.sample_ids import content_digest
from edge.console import track
from edge.errors import DataError, SourceError
from edge.frames.files import read_frame
from edge.training.datasets.base import LabelledImages, pixel_digest
from edge.training.datasets.layout import images_by_split

SIZE = 64
MAX_NAMED = 20
"""Largest number of files that a message lists."""


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


def load(path: Path | None, image_size: int | None, *, skip_bad: bool = False) -> LabelledImages:
    """Return the colour images of a folder, for a network input of 64x64 (or `image_size`) pixels.

    Subfolders are classes, sorted by name, with all images in and below them. Subfolders named train, val and test are
    splits, and their subfolders are the classes. Hidden files and folders are skipped. Every image is decoded once
    here, so that damaged ones are reported before a long training.

    Raises:
        DataError: the folder is missing or has fewer than two classes, a class has no images, or an image is damaged
            or in two classes.
    """
    size = SIZE if image_size is None else image_size
    if size < 1:
        raise DataError(
            f"an image size of {size} pixels is not possible; choose a positive size, or leave it out for {SIZE}"
        )
    images = images_by_split(path)
    classes = tuple(images["train"])
    listed = [
        (file, classes.index(name), purpose)
        for purpose, members in images.items()
        for name, files in members.items()
        for file in files
    ]
    checked = _check_files([file for file, _, _ in listed])
    if checked.bad and not skip_bad:
        raise DataError(
            f"{len(checked.bad)} of {len(listed)} images cannot be read: {_first(list(checked.bad.values()))}; "
            "remove or replace them, or leave them out with --skip-bad"
        )
    good = [entry for index, entry in enumerate(listed) if index not in checked.bad]
    labels = np.array([label for _, label, _ in good], dtype=np.int64)
    paths = [file for file, _, _ in good]
    _check_two_classes(paths, labels, checked.pixel_digests)
    return LabelledImages(
        name="folder",
        frames=ImageFiles(paths),
        labels=labels,
        classes=classes,
        kind="image",
        colour="rgb",
        size=(3, size, size),
        digests=checked.digests,
        fixed_splits={
            purpose: np.array([index for index, entry in enumerate(good) if entry[2] == purpose], dtype=np.intp)
            for purpose in images
            if purpose != "train"
        },
        from_files=True,
        augment=("crop", "colour"),
        notes=checked.notes(),
        pixel_digests=checked.pixel_digests,
    )


class _Checked(NamedTuple):
    """Result of decoding all files."""

    digests: list[str]
    """Of the files that can be read."""
    pixel_digests: list[str]
    """Of the images in these files."""
    bad: dict[int, str]
    """Reasons why files cannot be read, by index."""
    uniform: list[Path]
    """Images of a single colour, such as those of a covered camera."""

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each kind of file that was left out or looks wrong."""
        notes = []
        if self.bad:
            notes.append(f"{len(self.bad)} images that cannot be read are left out: {_first(list(self.bad.values()))}")
        if self.uniform:
            notes.append(
                f"{len(self.uniform)} images have a single colour throughout: {_first([str(p) for p in self.uniform])}"
            )
        return tuple(notes)


def _check_files(paths: Sequence[Path]) -> _Checked:
    """Decode every image."""
    checked = _Checked([], [], {}, [])
    for index, path in enumerate(track(paths, "checking images", len(paths))):
        try:
            pixels = read_frame(path).pixels
            digest = content_digest(path.read_bytes())
        except (SourceError, OSError) as error:
            checked.bad[index] = str(error)
            continue
        checked.digests.append(digest)
        checked.pixel_digests.append(pixel_digest(pixels))
        if pixels.min() == pixels.max():
            checked.uniform.append(path)
    return checked


def _check_two_classes(paths: Sequence[Path], labels: NDArray[np.int64], pixel_digests: Sequence[str]) -> None:
    """Refuse the same image in two classes, in whichever files."""
    first_index: dict[str, int] = {}
    for index, digest in enumerate(pixel_digests):
        first = first_index.setdefault(digest, index)
        if labels[first] != labels[index]:
            raise DataError(f"{paths[first]} and {paths[index]} are the same image in two classes; remove one")


def _first(texts: Sequence[str]) -> str:
    """Join the first texts and count the others."""
    more = f"; and {len(texts) - MAX_NAMED} more" if len(texts) > MAX_NAMED else ""
    return "; ".join(texts[:MAX_NAMED]) + more
