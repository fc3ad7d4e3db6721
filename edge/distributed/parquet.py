"""Parquet files with a column of encoded images, as Hugging Face and `read_binary_files` of Ray write them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edge.distributed.dataset import BATCH_IMAGES, LabelledBatch
from edge.errors import DataError

IMAGE_COLUMNS, LABEL = ("image", "bytes"), "label"
"""Columns that are read: encoded files, also as structs with `bytes`; labels by name or index."""
UNKNOWN_LABEL = -1
HUGGING_FACE = b"huggingface"
"""Key of the metadata in which Hugging Face keeps the names of classes."""


@dataclass(frozen=True, slots=True)
class ParquetShard:
    """Row groups of a Parquet file."""

    file: str
    row_groups: tuple[int, ...]
    first_row: int
    images: int

    @property
    def files(self) -> tuple[str, ...]:
        """The file."""
        return (self.file,)

    def read(self, dataset: Path, labels: Sequence[str]) -> Iterator[LabelledBatch]:
        """Yield encoded images in batches; see `edge.distributed.dataset.Shard`."""
        path, row = dataset / self.file, self.first_row
        try:
            with pq.ParquetFile(path) as table:
                image, classes = _image_column(table, path), _class_names(table.schema_arrow) or labels
                columns = [image, LABEL] if LABEL in table.schema_arrow.names else [image]
                for batch in table.iter_batches(BATCH_IMAGES, self.row_groups, columns):
                    names = [f"{path.name if self.file == '.' else self.file}#{row + i}" for i in range(len(batch))]
                    values = batch[LABEL].to_pylist() if LABEL in columns else [None] * len(batch)
                    truth = [_label(*pair, classes, labels) for pair in zip(values, names, strict=True)]
                    yield LabelledBatch(names, truth, batch[image].to_pylist())
                    row += len(batch)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error


def parquet_shards(dataset: Path, file: str, shard_images: int) -> Iterator[ParquetShard]:
    """Yield the shards of a Parquet file, each of about `shard_images`, or of a single row group.

    Raises:
        DataError: the file is damaged, or has no column of images.
    """
    path = dataset / file
    try:
        with pq.ParquetFile(path) as table:
            _image_column(table, path)
            rows = [table.metadata.row_group(index).num_rows for index in range(table.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    first_rows = list(accumulate(rows, initial=0))
    for _, group in groupby(range(len(rows)), key=lambda index: first_rows[index] // shard_images):
        groups = tuple(group)
        if images := sum(rows[index] for index in groups):
            yield ParquetShard(file, groups, first_rows[groups[0]], images)


def _image_column(table: pq.ParquetFile, path: Path) -> str:
    """Return the name of the column with encoded images."""
    for field in table.schema_arrow:
        types = {child.name: child.type for child in field.type} if pa.types.is_struct(field.type) else {}
        kind = types.get("bytes", field.type)
        if field.name in IMAGE_COLUMNS and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            return str(field.name)
    raise DataError(
        f"{path} has no column of encoded images named {' or '.join(IMAGE_COLUMNS)}, but "
        f"{', '.join(table.schema_arrow.names)}; rename the column, or encode the images"
    )


def _class_names(schema: pa.Schema) -> list[str] | None:
    """Return the names of classes in the metadata of Hugging Face; None if there are none."""
    try:
        names: Any = json.loads(schema.metadata[HUGGING_FACE])["info"]["features"][LABEL]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _label(value: Any, name: str, classes: Sequence[str], labels: Sequence[str]) -> str | None:
    """Return a label by its name or index; None if it is null, or -1 as in test splits of Hugging Face.

    Raises:
        DataError: the bundle has no such label.
    """
    label = classes[value] if isinstance(value, int) and 0 <= value < len(classes) else value
    if label is None or label == UNKNOWN_LABEL:
        return None
    if label in labels:
        return str(label)
    raise DataError(f"{name} has the label {value!r}, and the bundle has {', '.join(labels)}; correct the labels")


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return DataError(f"{path} cannot be read as a Parquet file: {reason}; replace it")
