"""Scores of large datasets, without a cluster: shards, resumption, damaged images, and wrong inputs."""

import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge.bundle.bundle import Bundle
from edge.cli.main import main
from edge.decision import Prediction
from edge.distributed import BundlePredictor
from edge.distributed.job import ScoreJob, score_shard, shard_path
from edge.distributed.predictor import PREDICTION_SCHEMA, classify
from edge.distributed.shards import shards_of
from edge.distributed.summary import summarise
from edge.errors import DataError, OutputError, SourceError
from edge.inference.load import load
from tests.support.commands import call, class_folder, contents, error_line, random_frames

EACH = 3


@pytest.fixture(scope="module")
def images(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three images for each digit."""
    return class_folder(tmp_path_factory.mktemp("images") / "all", digits_bundle.manifest.labels, EACH)


def job_for(bundle: Bundle, dataset: Path, output: Path, shard_images: int = 8) -> tuple[ScoreJob, list]:
    return ScoreJob.of(bundle, "fp32", "onnxruntime", dataset, output, shard_images=shard_images)


def scored(bundle: Bundle, dataset: Path, output: Path, shard_images: int = 8) -> list[dict]:
    """Score a dataset in this process, and return all rows."""
    job, shards = job_for(bundle, dataset, output, shard_images)
    for index in job.open_output():
        score_shard(job, index, shards[index])
    return pa.concat_tables(pq.read_table(shard_path(output, k)) for k in range(len(shards))).to_pylist()


def write_parquet(path: Path, images: Path, row_group: int = 4, **columns: list) -> Path:
    content = [file.read_bytes() for file in sorted(images.rglob("*.png"))]
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": content, **columns}), path, row_group_size=row_group)
    return path


def test_scores_are_the_predictions_of_the_classifier_in_the_order_of_the_files(
    digits_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    rows = scored(digits_bundle, images, tmp_path / "label=7")  # like a partition, which it is not
    assert summarise([*(tmp_path / "label=7").glob("*.parquet")], 3).labelled == len(rows)
    files = sorted(images.rglob("*.png"))
    assert [row["path"] for row in rows] == [file.relative_to(images).as_posix() for file in files]
    assert [row["truth"] for row in rows] == [file.parent.name for file in files]
    with load(digits_bundle.path, precision="fp32") as classifier:
        expected = classifier.predict_batch(files)
    assert [(row["label"], row["label_index"], row["exit_index"]) for row in rows] == [
        (prediction.label, prediction.label_index, prediction.exit_index) for prediction in expected
    ]
    for name in ("probability", "confidence"):
        assert [row[name] for row in rows] == pytest.approx([getattr(p, name) for p in expected], abs=1e-5)


def test_a_stopped_run_continues_with_the_missing_shards_and_ends_with_the_same_bytes(
    digits_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    scored(digits_bundle, images, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    job, shards = job_for(digits_bundle, images, tmp_path / "stopped")
    assert job.open_output() == [0, 1, 2, 3]
    score_shard(job, 2, shards[2])
    (job.output / ".part-00001.parquet.01234567.partial").write_bytes(b"PAR1")  # of a killed worker
    assert job.open_output() == [0, 1, 3]
    kept = shard_path(job.output, 2).stat().st_mtime_ns
    scored(digits_bundle, images, job.output)
    assert shard_path(job.output, 2).stat().st_mtime_ns == kept
    assert contents(job.output) == whole
    score_shard(job, 2, shards[2])  # by a worker that was believed dead
    assert contents(job.output) == whole


def test_parquet_files_have_the_scores_of_their_images(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    labels = [file.parent.name for file in sorted(images.rglob("*.png"))]
    (tmp_path / "tables").mkdir()
    write_parquet(tmp_path / "tables/all.parquet/a.parquet", images, label=labels)  # such as Spark writes
    expected = scored(digits_bundle, images, tmp_path / "folder")
    rows = scored(digits_bundle, tmp_path / "tables", tmp_path / "scores")
    assert [row.pop("path") for row in rows] == [f"all.parquet/a.parquet#{row}" for row in range(len(expected))]
    for row in expected:
        del row["path"]
        row["probability"], row["confidence"] = pytest.approx(row["probability"]), pytest.approx(row["confidence"])
    assert rows == expected
    assert [shard.images for shard in shards_of(tmp_path / "tables/all.parquet/a.parquet", 8)] == [8, 8, 8, 6]


def test_labels_of_parquet_files_are_indices_or_null_or_named_by_hugging_face(
    digits_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    total = EACH * 10
    names = {"info": {"features": {"label": {"names": ["9", "8"]}}}}
    table = pa.table(
        {"image": [file.read_bytes() for file in images.rglob("*.png")], "label": [0, None, -1] * (total // 3)}
    )
    unnamed = json.dumps(names).replace('["9", "8"]', "null")
    for metadata, expected in (({"huggingface": unnamed}, "0"), ({"huggingface": json.dumps(names)}, "9")):
        folder = tmp_path / expected
        folder.mkdir()
        pq.write_table(table.replace_schema_metadata(metadata), folder / "a.parquet")
        rows = scored(digits_bundle, folder, tmp_path / f"scores-{expected}")
        assert [row["truth"] for row in rows] == [expected, None, None] * (total // 3)
    write_parquet(tmp_path / "wrong/a.parquet", images, label=[10] * total)
    with pytest.raises(DataError, match=r"a\.parquet#0 has the label 10"):
        scored(digits_bundle, tmp_path / "wrong", tmp_path / "scores")
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["plan.json"]


def test_damaged_images_are_rows_with_a_reason(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images")
    damaged = tmp_path / "images/3/1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    rows = scored(digits_bundle, tmp_path / "images", tmp_path / "scores")
    [bad] = [row for row in rows if row["error"] is not None]
    assert bad["path"] == "3/1.png"
    assert bad["label"] is bad["exit_index"] is bad["probability"] is None
    assert "cannot be read as an image" in bad["error"]
    whole = scored(digits_bundle, images, tmp_path / "whole")
    assert [r["label"] for r in rows if r is not bad] == [r["label"] for r in whole if r["path"] != "3/1.png"]
    summary = summarise([*(tmp_path / "scores").glob("*.parquet")], exits=3)
    assert (summary.images, summary.damaged, summary.labelled) == (len(rows), 1, len(rows) - 1)
    assert sum(exit_.images for exit_ in summary.exits) == len(rows) - 1
    correct = sum(row["label"] == row["truth"] for row in rows)
    assert summary.accuracy == pytest.approx(correct / (len(rows) - 1))


def test_an_image_of_the_wrong_shape_leaves_the_others_of_its_batch_alone(digits_bundle: Bundle) -> None:
    good, bad = random_frames(2, 16, 16), np.zeros((4, 4, 7), dtype=np.uint8)
    with load(digits_bundle.path, precision="fp32") as classifier:
        first, reason, last = classify(classifier, [good[0], bad, good[1]])
    assert isinstance(reason, SourceError)
    assert isinstance(first, Prediction)
    assert isinstance(last, Prediction)


def test_the_class_for_ray_data_reads_files_bytes_structs_and_rgb_arrays_alike(
    digits_bundle: Bundle, images: Path
) -> None:
    files = sorted(images.rglob("*.png"))[:6]
    encoded = [file.read_bytes() for file in files]
    arrays = [cv2.imread(str(file))[:, :, ::-1] for file in files]
    predictor = BundlePredictor(digits_bundle.path, precision="fp32")
    with_alpha = [np.dstack([array, np.full(array.shape[:2], 255, dtype=np.uint8)]) for array in arrays]
    inputs = [
        np.array([str(file) for file in files], dtype=object),
        np.array(encoded, dtype=object),
        np.array([{"bytes": content} for content in encoded], dtype=object),
        np.stack(arrays),
        np.stack(with_alpha),
    ]
    batches = [predictor({"image": images, "mask": np.zeros((6, 2, 2))}) for images in inputs]
    assert list(batches[0]) == ["mask", *PREDICTION_SCHEMA.names]
    for batch in batches:
        assert batch["mask"].shape == (6, 2, 2)
        for name in PREDICTION_SCHEMA.names:
            np.testing.assert_array_equal(batch[name], batches[0][name])
    assert set(predictor({"image": inputs[0]})) == set(PREDICTION_SCHEMA.names)
    assert batches[0]["error"].tolist() == [None] * 6


def test_the_class_for_ray_data_refuses_columns_that_its_own_would_replace(digits_bundle: Bundle) -> None:
    predictor = BundlePredictor(digits_bundle.path, precision="fp32")
    with pytest.raises(DataError, match="named like those of predictions: label"):
        predictor({"image": np.array([b""], dtype=object), "label": np.array([3])})


def test_scores_of_other_work_are_never_mixed(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    job, _ = job_for(digits_bundle, images, tmp_path / "scores")
    job.open_output()
    shutil.copytree(images, tmp_path / "images")
    other, _ = job_for(digits_bundle, tmp_path / "images", tmp_path / "scores", shard_images=7)
    with pytest.raises(OutputError, match="another dataset"):
        other.open_output()
    (tmp_path / "others").mkdir()
    (tmp_path / "others/notes.txt").write_text("mine")
    other, _ = job_for(digits_bundle, images, tmp_path / "others")
    with pytest.raises(OutputError, match="other files"):
        other.open_output()


def test_a_worker_that_does_not_share_the_output_or_the_dataset_ends_the_work(
    digits_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    job, shards = job_for(digits_bundle, images, tmp_path / "missing")
    with pytest.raises(OutputError, match="share it"):
        score_shard(job, 0, shards[0])
    with pytest.raises(DataError, match="share it"):
        next(shards[0].read(tmp_path / "elsewhere", digits_bundle.manifest.labels))


def test_images_that_are_missing_or_changed_on_a_node_end_the_work(
    digits_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    dataset = Path(shutil.copytree(images, tmp_path / "images"))
    job, shards = job_for(digits_bundle, dataset, tmp_path / "scores")
    job.open_output()
    (dataset / "0/0.png").write_bytes((dataset / "9/0.png").read_bytes())
    (dataset / "4/0.png").unlink()
    with pytest.raises(DataError, match="different on this node"):
        score_shard(job, 0, shards[0])
    with pytest.raises(DataError, match=r"4/0\.png cannot be read on this node"):
        score_shard(job, 1, shards[1])
    assert not list(job.output.glob("part-*"))


@pytest.mark.parametrize("change", ["labels", "preprocessing"])
def test_scores_of_a_bundle_with_other_labels_or_preprocessing_are_not_mixed(
    change: str, digits_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    manifest = digits_bundle.manifest
    changed = {
        "labels": replace(manifest, labels=manifest.labels[::-1]),
        "preprocessing": replace(manifest, input=replace(manifest.input, mean=(0.75,))),
    }[change]
    job_for(digits_bundle, images, tmp_path / "scores")[0].open_output()
    other, _ = job_for(replace(digits_bundle, manifest=changed), images, tmp_path / "scores")
    with pytest.raises(OutputError, match="scores of another chain"):
        other.open_output()


def unusable(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield datasets that cannot be used, and part of the reason."""
    yield folder / "missing", "there is no dataset"
    (folder / "empty").mkdir()
    yield folder / "empty", "neither images nor Parquet files"
    (folder / "text").mkdir()
    (folder / "text/a.parquet").write_text("text")
    yield folder / "text", "cannot be read as a Parquet file"
    (folder / "columns").mkdir()
    pq.write_table(pa.table({"picture": [b""]}), folder / "columns/a.parquet")
    yield folder / "columns", "no column of encoded images named image or bytes, but picture"
    (folder / "rows").mkdir()
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), folder / "rows/a.parquet")
    yield folder / "rows", "have no rows; give files with images"
    class_folder(folder / "both", ("0",))
    pq.write_table(pa.table({"image": [b""]}), folder / "both/a.parquet")
    yield folder / "both", "images as well as Parquet files"


def test_unusable_datasets_are_refused_before_anything_is_written(digits_bundle: Bundle, tmp_path: Path) -> None:
    for dataset, reason in unusable(tmp_path):
        output = tmp_path / "scores"
        message = error_line(call(main, "score", digits_bundle.path, dataset, "--output", output))
        assert reason in message
        assert not output.exists()


def test_a_truncated_parquet_file_ends_the_work(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "tables/a.parquet", images)
    job, shards = job_for(digits_bundle, table, tmp_path / "scores")
    job.open_output()
    content = table.read_bytes()
    modified_ns = table.stat().st_mtime_ns
    table.write_bytes(content[:50] + bytes(len(content) - 50))
    os.utime(table, ns=(modified_ns, modified_ns))
    with pytest.raises(DataError, match="cannot be read as a Parquet file"):
        score_shard(job, 0, shards[0])
    assert not shard_path(job.output, 0).exists()


def test_scores_of_images_that_are_all_damaged_are_an_error(digits_bundle: Bundle, tmp_path: Path) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [b"", b"text"]}), table)
    (tmp_path / "a.parquet").write_bytes(table.getvalue())
    scored(digits_bundle, tmp_path / "a.parquet", tmp_path / "scores")
    with pytest.raises(SourceError, match="none of the 2 images can be read; the first: the encoded image is empty"):
        summarise([*(tmp_path / "scores").glob("*.parquet")], exits=3)


def test_an_output_inside_an_input_is_refused(digits_bundle: Bundle, images: Path) -> None:
    for output in (images / "scores", digits_bundle.path / "scores"):
        assert "is inside" in error_line(call(main, "score", digits_bundle.path, images, "--output", output))


def test_an_address_without_a_cluster_is_refused_at_once(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    words = ("score", digits_bundle.path, images, "--output", tmp_path / "scores", "--address", "127.0.0.1:1")
    assert "Ray cannot connect to 127.0.0.1:1" in error_line(call(main, *words), expected=4)
