"""Scores of a whole dataset, from all workers."""

from pathlib import Path

from edge.bundle.bundle import Bundle
from edge.distributed.cluster import connected, run_tasks
from edge.distributed.job import ScoreJob, score_shard, shard_path
from edge.progress import OnProgress, Progress, ignore_progress


def score(
    bundle: Bundle,
    precision: str,
    backend: str,
    dataset: Path,
    output: Path,
    *,
    every_exit: bool = False,
    address: str | None = None,
    on_progress: OnProgress = ignore_progress,
) -> list[Path]:
    """Score all images of a dataset that have no scores yet, and return the files of all scores.

    Args:
        bundle: The bundle.
        precision: One of its precisions.
        backend: Name of the inference library.
        dataset: Folder of images or of Parquet files, or a Parquet file.
        output: Folder for the scores. It is created, or holds scores of the same bundle and dataset.
        every_exit: Record the outputs of every exit, in place of predictions.
        address: Address of a Ray cluster; None for this machine.
        on_progress: Receives the number of images that have scores.

    Raises:
        OutputError: the output has other scores or other files.
        EdgeError: the bundle, the dataset, the cluster or an engine cannot be used.
    """
    job, shards = ScoreJob.of(bundle, precision, backend, dataset, output, every_exit=every_exit)
    missing = job.open_output()
    total = sum(shard.images for shard in shards)
    done = total - sum(shards[index].images for index in missing)
    on_progress(Progress("scoring", done, total))
    if missing:
        with connected(address):
            for images in run_tasks(score_shard, [(job, index, shards[index]) for index in missing], gpus=job.gpus):
                done += images
                on_progress(Progress("scoring", done, total))
    return [shard_path(job.output, index) for index in range(len(shards))]
