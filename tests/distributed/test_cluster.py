"""`edge score` and Ray Data on a real cluster of two nodes, of which one is killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import psutil
import pyarrow.parquet as pq
import pytest

from edge.bundle.bundle import Bundle
from tests.support.commands import (
    ROOT,
    TIMEOUT_S,
    class_folder,
    random_frames,
    run_command,
    start_command,
    wait_until,
)

pytestmark = [pytest.mark.services, pytest.mark.filterwarnings("default")]  # Ray has warnings of its own

IMAGES, SHARDS = 4096, 8
WORKER = "ray::score_shard"
"""Name of a process that runs a task."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Return a cluster with a node of one core; tests add a second."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of links to one image, for some seconds of work."""
    folder = tmp_path_factory.mktemp("images") / "0"
    folder.mkdir()
    first = folder / "00000.jpg"
    cv2.imwrite(str(first), random_frames(1, 480, 640)[0])  # decoding it takes milliseconds: time to kill something
    for index in range(1, IMAGES):
        os.link(first, folder / f"{index:05}.jpg")
    return folder.parent


def workers(node: psutil.Process | None = None) -> list[psutil.Process]:
    """Return the processes that score a shard, of one node or of all."""
    candidates = psutil.process_iter() if node is None else node.children(recursive=True)
    found = []
    for process in candidates:
        try:
            if process.cmdline()[:1] == [WORKER]:
                found.append(process)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def kill_worker(node: psutil.Process) -> bool:
    """Kill a worker of a node while it scores a shard; return False if there is none."""
    for worker in workers(node):
        worker.kill()
        return True
    return False


def parts(output: Path) -> list[Path]:
    return sorted(output.glob("part-*.parquet"))


def paths(output: Path) -> list[str]:
    return [path for part in parts(output) for path in pq.read_table(part)["path"].to_pylist()]


def test_a_killed_worker_and_a_killed_node_lose_and_repeat_no_image(
    cluster: Any, digits_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores"
    words = ("edge", "score", digits_bundle.path, images, "--output", output, "--address", cluster.address, "--json")
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    with start_command(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: (len(workers()) == 2 and parts(output)) or process.poll() is not None, "two workers")
        wait_until(lambda: kill_worker(raylet), "a worker on the second node")
        wait_until(lambda: workers(raylet), "a new worker")
        cluster.remove_node(node, allow_graceful=False)
        assert len(parts(output)) < SHARDS
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert paths(output) == sorted(f"0/{index:05}.jpg" for index in range(IMAGES))
    summary = json.loads(stdout)
    assert (summary["images"], summary["damaged"]) == (IMAGES, 0)
    assert sum(exit_["images"] for exit_ in summary["exits"]) == IMAGES


def test_a_command_that_is_killed_continues_and_writes_the_same_bytes(
    cluster: Any, digits_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores"
    words = ("edge", "score", digits_bundle.path, images, "--output", output, "--address", cluster.address)
    with start_command(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: len(parts(output)) >= 2, "two shards")
        process.kill()
    wait_until(lambda: not workers(), "the end of the workers")
    kept = {part.name: part.stat().st_mtime_ns for part in parts(output)}
    assert 2 <= len(kept) < SHARDS
    done = run_command(*words)
    assert done.returncode == 0, done.stderr
    assert {name: (output / name).stat().st_mtime_ns for name in kept} == kept
    assert paths(output) == sorted(f"0/{index:05}.jpg" for index in range(IMAGES))
    before, started = [part.read_bytes() for part in parts(output)], time.monotonic()
    assert run_command(*words).returncode == 0
    assert [part.read_bytes() for part in parts(output)] == before
    assert time.monotonic() - started < 20


def test_a_recording_of_every_exit_on_the_cluster_is_that_of_one_machine(
    cluster: Any, digits_bundle: Bundle, tmp_path: Path
) -> None:
    dataset = class_folder(tmp_path / "images", digits_bundle.manifest.labels, each=60)  # two shards
    words = ("edge", "score", digits_bundle.path, dataset, "--output", tmp_path / "recorded", "--every-exit")
    done = run_command(*words, "--precision", "fp32", "--address", cluster.address)
    assert done.returncode == 0, done.stderr
    alone = tmp_path / "alone.npz"
    record = ("edge", "record", digits_bundle.path, "--images", dataset, "--output", alone, "--precision", "fp32")
    assert run_command(*record).returncode == 0
    verify = ("edge", "verify", digits_bundle.path, "--scores", alone, tmp_path / "recorded", "--json")
    [parity] = json.loads(run_command(*verify).stdout)["precisions"]
    assert (parity["samples"], parity["exit_index_agreement"]) == (600, 1.0)
    assert max(exit_["max_abs_logit_error"] for exit_ in parity["exits"]) == 0


RAY_DATA = """
import sys, ray
from edge.distributed import BundlePredictor
ray.init(sys.argv[1], log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
paths = [{"image": f"{sys.argv[3]}/0/{i:05}.jpg", "id": i} for i in range(200)] + [{"image": "missing.png", "id": 200}]
rows = ray.data.from_items(paths).map_batches(
    BundlePredictor, fn_constructor_args=[sys.argv[2]], batch_size=64, concurrency=1
).take_all()
assert sorted(row["id"] for row in rows) == list(range(201))
[bad] = [row for row in rows if row["error"] is not None]
assert bad["id"] == 200 and bad["label"] is None
"""


def test_ray_data_maps_batches_with_the_class(
    cluster: Any, digits_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    script = tmp_path / "map_batches.py"
    script.write_text(RAY_DATA)
    words = [sys.executable, script, cluster.address, digits_bundle.path, images]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
