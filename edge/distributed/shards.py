"""Datasets on disk, divided into shards: always the same for the same files."""

import hashlib
from pathlib import Path

from edge.distributed.dataset import FolderShard, Shard
from edge.distributed.parquet import parquet_shards
from edge.errors import DataError
from edge.frames.files import files_in, scan

SHARD_IMAGES = 512
"""Images of a shard, which is the work that a killed worker loses."""
PARQUET_SUFFIX = ".parquet"


def shards_of(dataset: Path, shard_images: int = SHARD_IMAGES) -> list[Shard]:
    """Return the shards of a folder of images or of Parquet files, or of one Parquet file.

    Args:
        dataset: The folder or file.
        shard_images: Images of a shard; a row group of a Parquet file is not divided.

    Raises:
        DataError: there is no such dataset, it has images as well as Parquet files or neither, no rows, or is damaged.
        SourceError: a folder cannot be listed.
    """
    if not dataset.exists():
        raise DataError(f"there is no dataset {dataset}; give a folder of images, or Parquet files")
    tables = _parquet_files(dataset)
    if tables and dataset.is_dir() and scan(dataset)[0]:
        raise DataError(f"{dataset} has images as well as Parquet files; give a folder with only one kind")
    if tables:
        shards: list[Shard] = [shard for table in tables for shard in parquet_shards(dataset, table, shard_images)]
        if not shards:
            raise DataError(f"the Parquet files of {dataset} have no rows; give files with images")
        return shards
    files = [file.relative_to(dataset).as_posix() for file in files_in(dataset)] if dataset.is_dir() else []
    if not files:
        raise DataError(f"{dataset} has neither images nor Parquet files; give a folder of images, or Parquet files")
    return [FolderShard(tuple(files[start : start + shard_images])) for start in range(0, len(files), shard_images)]


def shard_digest(dataset: Path, shard: Shard) -> str:
    """Return the digest of a shard's files: names, sizes and modification times.

    Raises:
        DataError: a file is missing.
    """
    digest = hashlib.sha256(f"{shard.images}\n".encode())
    for name in shard.files:
        try:
            status = (dataset / name).stat()
        except OSError as error:
            raise DataError(
                f"{dataset / name} cannot be read on this node ({error.strerror}); share the dataset with all nodes, "
                "at the same path, and do not change it meanwhile"
            ) from error
        digest.update(f"{name!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _parquet_files(dataset: Path) -> list[str]:
    """Return the Parquet files of a dataset, relative to it: `.` for a dataset that is one.

    Spark and Ray write a table as a folder of files, which may be named `train.parquet`, too.
    """
    if dataset.is_file():
        return ["."] if dataset.suffix == PARQUET_SUFFIX else []
    files = (file.relative_to(dataset) for file in dataset.rglob(f"*{PARQUET_SUFFIX}") if file.is_file())
    return sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts))
