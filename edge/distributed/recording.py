"""Outputs of every exit for a dataset, as `edge record` writes for a folder: a Parquet file for each shard."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from edge.bundle.sample_ids import content_digest, short_digests
from edge.distributed.predictor import open_image, unpack
from edge.errors import SourceError
from edge.frames.base import Frame
from edge.frames.labelled import InputDigest
from edge.inference.classifier import Classifier
from edge.inference.record import record

RECORDING_SCHEMA = pa.schema(
    {
        "file_digest": pa.uint64(),
        "input_digest": pa.uint64(),
        "confidence": pa.list_(pa.float32()),
        "label": pa.list_(pa.int32()),
        "logits": pa.list_(pa.float32()),
        "error": pa.string(),
    }
)
"""Columns of recordings: lists have a value for each exit, or for each exit and class."""


class Sample(NamedTuple):
    """An image that can be recorded."""

    frame: Frame
    file_digest: str
    input_digest: str


def record_images(classifier: Classifier, images: Sequence[Any]) -> pa.Table:
    """Record images one by one, as `edge record` does, with the reason where an image cannot be read.

    Args:
        classifier: The classifier.
        images: Paths, or encoded files, also as structs with `bytes`.
    """
    digest = InputDigest(classifier.chain.input)
    samples = [_sample(image, classifier, digest) for image in images]
    intact = [sample for sample in samples if isinstance(sample, Sample)]
    recording = record(classifier, [sample.frame for sample in intact])
    values = classifier.chain.exits * len(classifier.chain.labels)
    columns = (
        short_digests(sample.file_digest for sample in intact),
        short_digests(sample.input_digest for sample in intact),
        recording.scores.confidence.T,
        recording.scores.label.T,
        recording.logits.swapaxes(0, 1).reshape(len(intact), values),
    )
    recorded = zip(*(column.tolist() for column in columns), strict=True)
    names = RECORDING_SCHEMA.names[:-1]
    rows = [
        dict(zip(names, next(recorded), strict=True)) if isinstance(sample, Sample) else {"error": str(sample)}
        for sample in samples
    ]
    return pa.Table.from_pylist(rows, schema=RECORDING_SCHEMA)


def _sample(image: Any, classifier: Classifier, digest: InputDigest) -> Sample | SourceError:
    image = unpack(image)
    frame = open_image(image, classifier.chain.input.kind)
    if isinstance(frame, SourceError):
        return frame
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    try:
        return Sample(frame, content_digest(content), digest(frame))
    except SourceError as error:
        return error
