"""Recordings of a dataset read as one, to fit thresholds or to compare."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edge.bundle.scores import LabelledScores
from edge.decision import Scores
from edge.distributed.job import PLAN, check_truth, shard_path
from edge.distributed.recording import RECORDING_SCHEMA
from edge.errors import BundleError, DataError


def read_recording(folder: Path, labels: Sequence[str]) -> LabelledScores:
    """Read the output of `edge score --every-exit`, without images that could not be read.

    Args:
        folder: The output.
        labels: Labels of the bundle.

    Raises:
        BundleError: the folder has other contents, is incomplete or is damaged.
        DataError: no image could be read, or an image has no label.
    """
    schema = pa.schema([("truth", pa.string()), *RECORDING_SCHEMA])
    try:
        plan = json.loads((folder / PLAN).read_bytes())
        if plan["kind"] != "recording":
            raise DataError(f"{folder} has predictions only; record every exit with `edge score --every-exit`")
        parts = [shard_path(folder, index) for index in range(plan["shards"])]
        table = pa.concat_tables([pq.read_table(part, schema=schema, partitioning=None) for part in parts])
        intact = table.filter(table["error"].is_null())
        arrays = {name: _values(intact[name]) for name in RECORDING_SCHEMA.names[:-1]}
        truth = _classes(intact["truth"].to_pylist(), labels, folder)
        return _labelled_scores(arrays, truth, str(plan["segments"]))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise BundleError(
            f"{folder} has no complete recording ({error}); run `edge score --every-exit` again to complete it"
        ) from error


def _labelled_scores(arrays: dict[str, NDArray[Any]], truth: NDArray[np.int64], segments: str) -> LabelledScores:
    """Return columns as scores.

    Raises:
        ValueError: samples have different numbers of exits or classes.
    """
    confidence, label = (arrays[name].reshape(len(truth), -1).T for name in ("confidence", "label"))
    logits = arrays["logits"].reshape(len(truth), len(confidence), -1).swapaxes(0, 1)
    samples = np.stack([arrays["file_digest"], arrays["input_digest"]], axis=1)
    return LabelledScores(logits, Scores(confidence, label), truth, samples, segments)


def _classes(names: Sequence[str | None], labels: Sequence[str], folder: Path) -> NDArray[np.int64]:
    """Return the class of each image.

    Raises:
        DataError: there are no images, or an image has no label of the bundle.
    """
    if not names:
        raise DataError(f"none of the images recorded in {folder} could be read; the column `error` has the reasons")
    check_truth(names, labels, folder)
    classes = {name: index for index, name in enumerate(labels)}
    return np.array([classes[name] for name in names if name is not None], dtype=np.int64)


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column of numbers, or all numbers of a column of lists."""
    array = column.combine_chunks()
    return np.asarray(array.flatten() if pa.types.is_list(array.type) else array)
