"""Throughput of `edge score` on two Ray nodes, beside two independent processes that score half of the shards each."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from benchmarks.demo import stage
from benchmarks.real_size import moving_images
from edge.bundle.bundle import Bundle
from edge.console import track
from edge.distributed.dataset import Shard
from edge.distributed.job import ScoreJob, score_shard

WORKERS, SHARD_IMAGES = 2, 128
PRECISION, BACKEND = "fp32", "onnxruntime"


def ray_ratio(bundle: Bundle, shards: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Return the throughput of both, in turns, and the median ratio.

    Throughput counts the shards that are finished after the first of each worker: start-up does not count.
    """
    dataset = folder / "photographs"
    write_dataset(dataset, shards)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    on_ray, alone = [], []
    try:
        for index in track(range(rounds), "two nodes and two processes"):
            output = folder / f"ray-{index}"
            stage("edge", "score", bundle.path, dataset, "--output", output, "--precision", PRECISION, "--backend",
                  BACKEND, "--address", cluster.address, quiet=True)  # fmt: skip
            on_ray.append(images_per_s(output))
            alone.append(images_per_s(score_apart(bundle, dataset, folder / f"apart-{index}")))
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]  # of Ray
    ratios = [ray / processes for ray, processes in zip(on_ray, alone, strict=True)]
    return {
        "network": bundle.manifest.name,
        "images": shards * SHARD_IMAGES,
        "ray_images_per_s": on_ray,
        "processes_images_per_s": alone,
        "ratio": median(ratios),
    }


def score_apart(bundle: Bundle, dataset: Path, output: Path) -> Path:
    """Score each half of the shards in its own process, without Ray, and return the output."""
    job, shards = ScoreJob.of(bundle, PRECISION, BACKEND, dataset, output)
    job.open_output()
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as processes:
        for part in [processes.submit(score_part, job, shards, k) for k in range(WORKERS)]:
            part.result()
    return output


def score_part(job: ScoreJob, shards: Sequence[Shard], worker: int) -> None:
    """Score one worker's part of the shards."""
    for index in range(worker, len(shards), WORKERS):
        score_shard(job, index, shards[index])


def images_per_s(output: Path) -> float:
    """Return the throughput between the last of the workers' first shards and the last shard."""
    times = sorted(path.stat().st_mtime for path in output.glob("part-*.parquet"))
    return SHARD_IMAGES * (len(times) - WORKERS) / (times[-1] - times[WORKERS - 1])


def write_dataset(folder: Path, shards: int) -> None:
    """Write synthetic photographs as JPEG into a Parquet file for each shard."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [cv2.imencode(".jpg", image)[1].tobytes() for image in moving_images(SHARD_IMAGES, height=480, width=640)]
    for index in range(shards):
        pq.write_table(pa.table({"image": images}), folder / f"{index:04}.parquet")
