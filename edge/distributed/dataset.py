"""Images of a dataset by shards, and folders of images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from edge.errors import DataError

BATCH_IMAGES = 64
"""Images in memory at a time."""


class LabelledBatch(NamedTuple):
    """Images of a shard."""

    names: list[str]
    """Path of each image below the dataset; in a Parquet file, the file's path with `#` and the row."""
    truth: list[str | None]
    """Label of each image; None if it is unknown."""
    images: list[Any]
    """Paths, or encoded files."""


class Shard(Protocol):
    """Consecutive images of a dataset."""

    @property
    def images(self) -> int:
        """Number of images."""

    @property
    def files(self) -> Sequence[str]:
        """The files to read, relative to the dataset."""

    def read(self, dataset: Path, labels: Sequence[str]) -> Iterator[LabelledBatch]:
        """Yield the images in batches.

        Args:
            dataset: The dataset.
            labels: Labels of the bundle.

        Raises:
            DataError: the dataset is not at this path, is damaged, or has labels that the bundle does not have.
        """


@dataclass(frozen=True, slots=True)
class FolderShard:
    """Files below a folder. The label of an image is the name of its first subfolder, if the bundle has this label."""

    files: tuple[str, ...]

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.files)

    def read(self, dataset: Path, labels: Sequence[str]) -> Iterator[LabelledBatch]:
        """Yield paths in batches; see `Shard`."""
        if not dataset.is_dir():
            raise DataError(f"there is no folder {dataset} on this node; share it with all nodes, at the same path")
        for start in range(0, len(self.files), BATCH_IMAGES):
            names = list(self.files[start : start + BATCH_IMAGES])
            folders = [name.partition("/")[0] for name in names]
            truth = [folder if folder in labels else None for folder in folders]
            yield LabelledBatch(names, truth, [dataset / name for name in names])
