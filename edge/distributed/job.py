"""Scores of a dataset: a Parquet file for each shard, written once by whichever worker gets there.

The shards of a dataset and their files are always the same, and files are written atomically. So a shard that is run
again, after a worker or the whole command was killed, neither loses nor repeats an image.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import manifest_to_json
from edge.distributed.dataset import Shard
from edge.distributed.predictor import classify, predictions_table
from edge.distributed.recording import record_images
from edge.distributed.shards import SHARD_IMAGES, shard_digest, shards_of
from edge.engines import backend_named
from edge.errors import BundleError, DataError, OutputError, utf8
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier
from edge.storage import atomic_file, write_file

PLAN = "plan.json"
"""File of the output folder that identifies the work."""
SAMPLE_SCHEMA = pa.schema([("path", pa.string()), ("truth", pa.string())])
"""First columns of scores: the image's path below the dataset, and its label."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that scores depend on. Scores with different plans are not mixed."""

    dataset: str
    """Digest of the dataset's shards."""
    shards: int
    segments: str
    """Digest of the bundle's segments."""
    precision: str
    backend: str
    thresholds: tuple[float, ...]
    chain: str
    """Digest of all else that predictions depend on: labels, preprocessing, temperatures, rejection."""
    kind: Literal["predictions", "recording"]
    """Predictions, or the outputs of every exit."""

    @property
    def text(self) -> str:
        """Content of the plan's file."""
        return json.dumps(asdict(self), indent=2) + "\n"


def manifest_digest(bundle: Bundle) -> str:
    """Return the digest of an open bundle's manifest, and so of all that is in the bundle."""
    return _digest(manifest_to_json(bundle.manifest))


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """The work of all workers. Paths are absolute and the same on every node."""

    bundle: Path
    manifest: str
    """Digest of the bundle's manifest, whose signature was checked where one is required."""
    dataset: Path
    digests: tuple[str, ...]
    """Digest of each shard of the dataset."""
    output: Path
    plan: Plan

    @staticmethod
    def of(
        bundle: Bundle,
        precision: str,
        backend: str,
        dataset: Path,
        output: Path,
        *,
        every_exit: bool = False,
        shard_images: int = SHARD_IMAGES,
    ) -> "tuple[ScoreJob, list[Shard]]":
        """Return the work of scoring a dataset with one precision of a bundle, and the dataset's shards.

        Raises:
            DataError: the dataset cannot be used.
        """
        dataset, shards = dataset.resolve(), shards_of(dataset.resolve(), shard_images)
        digests = tuple(shard_digest(dataset, shard) for shard in shards)
        plan = Plan(
            _digest("".join(digests)),
            len(shards),
            bundle.segments_digest(precision),
            precision,
            backend,
            bundle.precision(precision).thresholds.values,
            _digest(repr(bundle.chain(precision))),
            "recording" if every_exit else "predictions",
        )
        job = ScoreJob(bundle.path.resolve(), manifest_digest(bundle), dataset, digests, output.resolve(), plan)
        return job, shards

    @property
    def gpus(self) -> int:
        """GPUs that a worker needs."""
        return int(self.plan.backend.startswith("tensorrt"))

    def open_output(self) -> list[int]:
        """Create the output folder, or resume with it; return the indices of missing shards.

        Raises:
            OutputError: the folder has other scores or other files.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        names = set(os.listdir(self.output))
        if PLAN in names:
            self.check_output()
        elif any(not name.startswith(".") for name in names):
            raise OutputError(f"{self.output} has other files than scores; give a new folder")
        else:
            write_file(self.output / PLAN, self.plan.text)
        return [index for index in range(self.plan.shards) if shard_path(self.output, index).name not in names]

    def check_output(self) -> None:
        """Check that the output folder belongs to this work.

        Raises:
            OutputError: it has other scores, or is not shared with this node.
        """
        try:
            text = (self.output / PLAN).read_text()
        except FileNotFoundError as error:
            raise OutputError(
                f"{self.output} is missing on a node; share it with all nodes, at the same path"
            ) from error
        if text != self.plan.text:
            other = _difference(text, self.plan.text)
            raise OutputError(f"{self.output} has scores of {other}; give another folder, or remove this one")


def score_shard(job: ScoreJob, index: int, shard: Shard) -> int:
    """Score the images of a shard and write its file; return their number.

    Raises:
        EdgeError: the bundle, the dataset or the output is not the same on this node, or an engine cannot be run.
    """
    classifier = _classifier(job)
    if shard_digest(job.dataset, shard) != job.digests[index]:
        raise DataError(
            f"images in {job.dataset} are different on this node, or were changed; share the dataset with all nodes, "
            "at the same path, and do not change it meanwhile"
        )
    tables = []
    for names, truth, images in shard.read(job.dataset, classifier.chain.labels):
        if job.plan.kind == "recording":
            check_truth(truth, classifier.chain.labels, job.dataset)
            scores = record_images(classifier, images)
        else:
            scores = predictions_table(classify(classifier, images))
        columns = [pa.array(map(utf8, names)), pa.array(truth, pa.string()), *scores.columns]
        tables.append(pa.table(columns, schema=pa.schema([*SAMPLE_SCHEMA, *scores.schema])))
    with atomic_file(shard_path(job.output, index)) as partial:
        pq.write_table(pa.concat_tables(tables), partial)
    return shard.images


def check_truth(truth: Sequence[str | None], labels: Sequence[str], where: Path) -> None:
    """Check that every image has a label of the bundle, before hours are spent on the others.

    Raises:
        DataError: an image has none.
    """
    if unknown := sum(name not in labels for name in truth):
        raise DataError(
            f"{unknown} of {len(truth)} images in {where} have no label of the bundle; put images into a subfolder for "
            "each label, or give their Parquet files a column `label`, and record them again"
        )


def shard_path(output: Path, index: int) -> Path:
    """Return the file of a shard's scores."""
    return output / f"part-{index:05}.parquet"


@cache
def _classifier(job: ScoreJob) -> Classifier:
    """Load the classifier, once for each process."""
    cv2.setNumThreads(1)  # there is a worker for each core
    job.check_output()
    bundle = Bundle.open(job.bundle)
    if manifest_digest(bundle) != job.manifest:
        raise BundleError(f"{job.bundle} is another bundle on this node; copy the same bundle to all nodes")
    return load_classifier(bundle, job.plan.precision, backend_named(job.plan.backend))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _difference(text: str, expected: str) -> str:
    """Return the first field in which a plan differs, for messages."""
    try:
        found, wanted = json.loads(text), json.loads(expected)
        field = next(name for name in wanted if found.get(name) != wanted[name])
    except (ValueError, AttributeError, StopIteration):
        return "an unknown version"
    return f"another {'dataset' if field == 'shards' else field.replace('_', ' ')}"
