"""Every exit's outputs by shards: thresholds and parity equal those of one machine to the digit."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from calibration.__main__ import main as calibration
from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.scores import LabelledScores, read_scores, write_scores
from edge.cli.main import main
from edge.distributed.job import ScoreJob, score_shard
from edge.distributed.recorded import read_recording
from edge.errors import BundleError, DataError
from tests.support.commands import NO_GUARANTEE, call, error_line
from tests.support.noisy_digits import noisy_digits

IMAGES = 60


@pytest.fixture(scope="module")
def images(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of noisy digits, some of which leave at each exit."""
    folder, labels = tmp_path_factory.mktemp("images"), digits_bundle.manifest.labels
    for index, pixels in enumerate(noisy_digits(digits_bundle, IMAGES)):
        path = folder / labels[index % len(labels)] / f"{index:03}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), pixels)
    return folder


@pytest.fixture(scope="module")
def on_one_machine(digits_bundle: Bundle, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of `edge record`."""
    path = tmp_path_factory.mktemp("recorded") / "scores.npz"
    result = call(main, "record", digits_bundle.path, "--images", images, "--output", path, "--precision", "fp32")
    assert result.code == 0, result.stderr
    return path


def record_shards(bundle: Bundle, dataset: Path, output: Path, precision: str = "fp32", shard_images: int = 16) -> Path:
    """Record a dataset as workers do, the last shard first."""
    job, shards = ScoreJob.of(
        bundle, precision, "onnxruntime", dataset, output, every_exit=True, shard_images=shard_images
    )
    for index in reversed(job.open_output()):
        score_shard(job, index, shards[index])
    return output


def arrays_of(recorded: LabelledScores) -> list[NDArray[np.generic]]:
    return [recorded.logits, *recorded.scores, recorded.truth, recorded.samples]


def as_parquet(images: Path, path: Path, *, structs: bool) -> Path:
    """Write the files of a folder of class folders as one Parquet file, with structs as Hugging Face does."""
    files = sorted(images.rglob("*.png"))
    encoded = [file.read_bytes() for file in files]
    column = [{"bytes": content, "path": file.name} for content, file in zip(encoded, files, strict=True)]
    table = {"image": column if structs else encoded, "label": [file.parent.name for file in files]}
    pq.write_table(pa.table(table), path, row_group_size=25)
    return path


@pytest.mark.parametrize("kind", ["folder", "Parquet", "struct"])
def test_shards_together_are_the_scores_of_one_machine_bit_for_bit(
    kind: str, digits_bundle: Bundle, images: Path, on_one_machine: Path, tmp_path: Path
) -> None:
    parquet = tmp_path / "images.parquet"
    dataset = images if kind == "folder" else as_parquet(images, parquet, structs=kind == "struct")
    folder = record_shards(digits_bundle, dataset, tmp_path / "scores")
    recorded, expected = read_recording(folder, digits_bundle.manifest.labels), read_scores(on_one_machine)
    assert recorded.segments == expected.segments
    for array, expected_array in zip(arrays_of(recorded), arrays_of(expected), strict=True):
        assert array.dtype == expected_array.dtype
        assert np.array_equal(array, expected_array)


def test_thresholds_fitted_to_shards_are_those_of_one_machine_to_the_digit(
    digits_bundle: Bundle, images: Path, on_one_machine: Path, tmp_path: Path
) -> None:
    manifests = []
    for name, scores in (
        ("one", on_one_machine),
        ("shards", record_shards(digits_bundle, images, tmp_path / "scores")),
    ):
        bundle = shutil.copytree(digits_bundle.path, tmp_path / name)
        result = call(calibration, bundle, "--scores", scores, "--precision", "fp32", *NO_GUARANTEE)
        assert result.code == 0, result.stderr
        manifests.append((bundle / MANIFEST).read_text())
    assert manifests[0] == manifests[1] != (digits_bundle.path / MANIFEST).read_text()


def test_damaged_images_are_left_out(digits_bundle: Bundle, images: Path, on_one_machine: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(images, tmp_path / "images"))
    damaged = sorted(dataset.rglob("*.png"))[20]
    damaged.write_bytes(damaged.read_bytes()[:60])
    folder = record_shards(digits_bundle, dataset, tmp_path / "scores")
    recorded, whole = read_recording(folder, digits_bundle.manifest.labels), read_scores(on_one_machine)
    assert np.array_equal(recorded.logits, np.delete(whole.logits, 20, axis=1))
    assert np.array_equal(recorded.truth, np.delete(whole.truth, 20))


def test_a_shard_of_damaged_images_only_is_recorded(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(images, tmp_path / "images"))
    for path in sorted(dataset.rglob("*.png"))[:30]:
        path.write_bytes(b"")
    folder = record_shards(digits_bundle, dataset, tmp_path / "scores")
    assert pq.read_table(folder / "part-00000.parquet")["error"].null_count == 0
    assert len(read_recording(folder, digits_bundle.manifest.labels).truth) == IMAGES - 30


def test_the_command_records_on_a_cluster_and_counts_damaged_images(
    digits_bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process; tests marked `services` start Ray."""
    monkeypatch.setattr("edge.distributed.score.run_tasks", lambda task, calls, **_: (task(*call) for call in calls))
    monkeypatch.setattr("edge.distributed.score.connected", lambda address: nullcontext())
    dataset = Path(shutil.copytree(images, tmp_path / "images"))
    (dataset / "3" / "empty.png").touch()
    words = (
        "score",
        digits_bundle.path,
        dataset,
        "--output",
        tmp_path / "scores",
        "--every-exit",
        "--precision",
        "fp32",
    )
    result = call(main, *words)
    assert result.code == 0, result.stderr
    assert f"with {IMAGES} samples; to refit thresholds:" in result.stdout
    assert f"--scores {tmp_path / 'scores'} --precision fp32" in result.stdout
    assert "warning: 1 images could not be read" in result.stderr
    assert json.loads(call(main, *words, "--json").stdout)["samples"] == IMAGES
    other = call(main, *(word for word in words if word != "--every-exit"))
    assert "has scores of another kind" in error_line(other)


def test_incomplete_or_other_folders_are_refused(digits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    labels = digits_bundle.manifest.labels
    folder = record_shards(digits_bundle, images, tmp_path / "scores")
    whole = (folder / "part-00001.parquet").read_bytes()
    (folder / "part-00001.parquet").write_bytes(whole[:-30])
    with pytest.raises(BundleError, match="has no complete recording"):
        read_recording(folder, labels)
    (folder / "part-00001.parquet").unlink()
    with pytest.raises(BundleError, match=r"part-00001.*run `edge score --every-exit` again"):
        read_recording(folder, labels)
    with pytest.raises(BundleError, match="has no complete recording"):
        read_recording(images, labels)
    predictions, _ = ScoreJob.of(digits_bundle, "fp32", "onnxruntime", images, tmp_path / "predictions")
    predictions.open_output()
    with pytest.raises(DataError, match="has predictions only"):
        read_recording(predictions.output, labels)
    with pytest.raises(DataError, match=r"of \d+ images .* have no label of the bundle"):
        read_recording(record_shards(digits_bundle, images, folder), labels[1:])


def test_images_without_a_label_are_refused_before_the_others_are_recorded(
    digits_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "flat").mkdir()
    shutil.copy(next(images.rglob("*.png")), tmp_path / "flat")
    with pytest.raises(DataError, match="1 of 1 images"):
        record_shards(digits_bundle, tmp_path / "flat", tmp_path / "unlabelled")
    assert not list((tmp_path / "unlabelled").glob("*.parquet"))


# Parity


def test_verify_compares_recorded_scores_in_any_order(
    digits_bundle: Bundle, images: Path, on_one_machine: Path, tmp_path: Path
) -> None:
    one = read_scores(on_one_machine)
    order = np.random.default_rng(0).permutation(IMAGES)
    logits = one.logits[:, order].copy()
    logits[1] += 0.5
    shuffled = one._replace(
        logits=logits,
        scores=one.scores._replace(confidence=one.scores.confidence[:, order], label=one.scores.label[:, order]),
        truth=one.truth[order],
        samples=one.samples[order],
    )
    write_scores(tmp_path / "shuffled.npz", shuffled)
    shards = record_shards(digits_bundle, images, tmp_path / "shards")
    result = call(main, "verify", digits_bundle.path, "--scores", on_one_machine, shards, "--json")
    assert result.code == 0, result.stderr
    [parity] = json.loads(result.stdout)["precisions"]
    assert (parity["precision"], parity["samples"], parity["exit_index_agreement"]) == ("fp32", IMAGES, 1.0)
    assert max(exit_["max_abs_logit_error"] for exit_ in parity["exits"]) == 0
    failed = call(main, "verify", digits_bundle.path, "--scores", shards, tmp_path / "shuffled.npz", "--json")
    assert failed.code == 1
    assert json.loads(failed.stdout)["precisions"][0]["first_diverging"] == 1


def test_precisions_are_compared_with_the_tolerance_of_the_second(
    digits_bundle: Bundle, images: Path, on_one_machine: Path, tmp_path: Path
) -> None:
    int8 = record_shards(digits_bundle, images, tmp_path / "int8", precision="int8")
    result = call(main, "verify", digits_bundle.path, "--scores", on_one_machine, int8, "--json")
    [parity] = json.loads(result.stdout)["precisions"]
    assert (parity["precision"], parity["reference"]) == ("int8", str(on_one_machine))
    assert parity["exits"][0]["max_abs_logit_error"] > 0


def test_scores_that_cannot_be_compared_are_refused(
    digits_bundle: Bundle, on_one_machine: Path, tmp_path: Path
) -> None:
    def refused(**changed: object) -> str:
        write_scores(tmp_path / "other.npz", one._replace(**changed))  # type: ignore[arg-type]
        return error_line(call(main, *words, tmp_path / "other.npz"))

    one, words = read_scores(on_one_machine), ("verify", digits_bundle.path, "--scores", on_one_machine)
    assert "they are not the same images" in refused(samples=one.samples + np.uint64(1))
    assert "was recorded with other segments" in refused(segments="other")
    assert "holds no scores" in error_line(call(main, *words, tmp_path / "missing.npz"))
    both = call(main, *words, on_one_machine, "--backend", "onnxruntime")
    assert "--backend is for engines" in error_line(both)
