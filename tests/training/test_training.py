"""Training from images to checkpoint, attention heads, and TensorBoard curves."""

import contextlib
import copy
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edge.errors import CheckpointError, DataError
from edge.training.checkpoint import Checkpoint, read_checkpoint
from edge.training.loop import TrainingRun
from edge.training.network import AttentionHead, pool_to_grid
from edge.training.settings import Settings
from edge.training.train import CHECKPOINT, CURVES, METRICS, STATE, train
from tests.support.commands import class_folder

SETTINGS = Settings(dataset="digits", image_size=12, regime="soft-cgt", epochs=3, batch_size=64, seed=3)
LOSSES = ("loss", "classification_loss", "attention_loss", "distillation_loss")


# Networks


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8])
def test_pooling_to_a_grid_covers_every_pixel(size: int) -> None:
    features = torch.ones(1, 1, size, size, requires_grad=True)
    pooled = pool_to_grid(features, 2)
    assert pooled.shape == (1, 4)
    pooled.sum().backward()
    assert features.grad is not None
    assert bool((features.grad > 0).all())


def test_contrast_and_mean_of_a_map_do_not_depend_on_the_scale_of_the_scores() -> None:
    torch.manual_seed(0)
    head, features = AttentionHead(channels=8, classes=3), torch.randn(4, 8, 6, 6)
    maps = []
    for scale in (1.0, 0.1, 100.0):
        with torch.no_grad():
            scaled = copy.deepcopy(head)
            scaled.attention.weight.mul_(scale)
            maps.append(scaled(features)[1])
    for attention in maps:
        torch.testing.assert_close(attention, maps[0], atol=0.01, rtol=0)
        assert (attention.std(dim=(1, 2, 3)) > 0.2).all()


def test_a_map_depends_only_on_its_own_image() -> None:
    torch.manual_seed(0)
    head, features = AttentionHead(channels=8, classes=3), torch.randn(4, 8, 6, 6)
    together = head(features)[1]
    for index in range(4):
        torch.testing.assert_close(head(features[index : index + 1])[1][0], together[index])


def test_constant_features_give_a_uniform_map() -> None:
    _, attention = AttentionHead(channels=8, classes=3)(torch.randn(2, 8, 1, 1).expand(-1, -1, 4, 4))
    torch.testing.assert_close(attention, torch.full((2, 1, 4, 4), 0.5), atol=1e-3, rtol=0)


def test_logits_are_computed_from_attention_weighted_features() -> None:
    head = AttentionHead(channels=2, classes=3)
    with torch.no_grad():
        head.attention.weight.copy_(torch.tensor([100.0, 0.0]).reshape(1, 2, 1, 1))  # attends to the first channel
    features = torch.zeros(2, 2, 6, 6)
    features[:, 0] = -1.0
    features[:, 0, 0, 0] = 1.0
    logits, attention = head(features)
    assert attention[0, 0, 0, 0] > 0.99 > 0.5 > attention[0, 0, 3, 3]
    with torch.no_grad():
        pooled = (features * attention).mean(dim=(2, 3))
        torch.testing.assert_close(logits, head.classify(pooled))


# Training


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a finished run."""
    output = tmp_path_factory.mktemp("training") / "run"
    train(SETTINGS, output)
    return output


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return read_checkpoint(folder / CHECKPOINT)


def test_the_same_seed_gives_the_same_network(checkpoint: Checkpoint, tmp_path: Path) -> None:
    repeated = train(SETTINGS, tmp_path)
    assert repeated.metrics == checkpoint.metrics
    assert repeated.splits == checkpoint.splits
    assert repeated.weights.keys() == checkpoint.weights.keys()
    for name, weight in repeated.weights.items():
        assert torch.equal(weight, checkpoint.weights[name]), name


def test_training_writes_checkpoint_metrics_and_curves(folder: Path, checkpoint: Checkpoint) -> None:
    assert {path.name for path in folder.iterdir()} == {CHECKPOINT, METRICS, CURVES}
    assert checkpoint.settings == SETTINGS
    metrics = json.loads((folder / METRICS).read_text())
    assert set(metrics) == {"settings", "history", "kept_epoch", "batch_size", "augment", "earlier_runs", "validation"}
    assert (metrics["kept_epoch"], metrics["augment"]) == (SETTINGS.epochs - 1, ["shift"])
    assert metrics["settings"] == dataclasses.asdict(SETTINGS)
    assert metrics["history"] == checkpoint.metrics["history"]
    confusion = np.array(metrics["validation"]["confusion_matrix"])
    assert confusion.sum() == checkpoint.splits["validation"].samples
    assert np.trace(confusion) / confusion.sum() == pytest.approx(metrics["history"][-1]["validation_accuracy"][-1])
    per_class = [accuracy[-1] for accuracy in metrics["validation"]["accuracy_per_class"].values()]
    assert per_class == pytest.approx(np.diag(confusion) / confusion.sum(axis=1))
    history = metrics["history"]
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert all(len(row["validation_accuracy"]) == len(row["exit_weights"]) == 3 for row in history)
    assert max(history[-1]["validation_accuracy"]) > 0.5


def test_a_finished_run_is_reused_and_refused_for_other_settings(folder: Path, checkpoint: Checkpoint) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    reused = train(SETTINGS, folder)
    assert (reused.settings, reused.metrics, reused.splits) == (SETTINGS, checkpoint.metrics, checkpoint.splits)
    with pytest.raises(CheckpointError, match="is a finished run with other settings"):
        train(dataclasses.replace(SETTINGS, seed=4), folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_is_not_reused_after_a_label_was_corrected(
    is_finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last image of the first class moves to the second: no index and no split changes for some seeds."""
    folder = class_folder(tmp_path / "images", ("cat", "dog"), each=20, size=12)
    settings = Settings(dataset="folder", data=str(folder), image_size=12, backbone="cnn:4", epochs=1)
    with monkeypatch.context() as patch:
        if not is_finished:
            patch.setattr("edge.training.train._write_results", _interrupt)
        with contextlib.suppress(KeyboardInterrupt):
            train(settings, tmp_path / "run", workers=0)
    assert (tmp_path / "run" / (CHECKPOINT if is_finished else STATE)).exists()
    (folder / "cat/9.png").rename(folder / "dog/+9.png")
    with pytest.raises(CheckpointError, match="finished run with other settings, images or labels"):
        train(settings, tmp_path / "run", workers=0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("version", [5, None])
def test_a_finished_run_of_another_version_is_not_overwritten(version: int | None, tmp_path: Path) -> None:
    torch.save({"version": version}, tmp_path / CHECKPOINT)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(CheckpointError, match=f"checkpoint version {version}, .*; delete it and train again"):
        train(SETTINGS, tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_settings_are_keyword_only_and_need_only_a_dataset() -> None:
    assert Settings(dataset="digits").regime == "joint"
    with pytest.raises(TypeError):
        Settings("digits")


def test_a_nan_loss_stops_with_its_batch_and_epoch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the loss became .* in batch .* of epoch 0"):
        train(dataclasses.replace(SETTINGS, learning_rate=1e30), tmp_path / "run")
    assert not list(tmp_path.rglob("*.pt"))


def test_invalid_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    message = "'disjoint' has 2 phases and needs an epoch for each, got 1; raise --epochs to 2"
    with pytest.raises(DataError, match=message):
        train(dataclasses.replace(SETTINGS, regime="disjoint", epochs=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Curves


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of each TensorBoard curve."""
    accumulator = EventAccumulator(str(folder / CURVES))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def expected_curves(history: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    per_exit = {
        f"{name}/exit {k}": [(row["epoch"], row[name][k]) for row in history]
        for name in ("validation_accuracy", "exit_weights")
        for k in range(3)
    }
    return per_exit | {name: [(row["epoch"], row[name]) for row in history] for name in LOSSES}


def assert_curves(folder: Path, history: list[dict[str, Any]]) -> None:
    written, expected = curves(folder), expected_curves(history)
    assert written.keys() == expected.keys()
    for tag, points in expected.items():
        assert [step for step, _ in written[tag]] == [step for step, _ in points], tag
        assert [value for _, value in written[tag]] == pytest.approx([value for _, value in points]), tag


def test_curves_show_each_loss_and_each_exits_accuracy_and_weight(folder: Path, checkpoint: Checkpoint) -> None:
    assert_curves(folder, checkpoint.metrics["history"])


@pytest.mark.parametrize("moment", ["in an epoch", "between curves and state of an epoch"])
def test_the_curves_of_a_resumed_run_have_each_epoch_once(
    moment: str, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = "_step" if moment == "in an epoch" else "save"
    original = getattr(TrainingRun, interrupted)

    def stop(run: TrainingRun, *arguments: Any) -> Any:
        if (tmp_path / STATE).exists():
            raise KeyboardInterrupt
        return original(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, interrupted, stop)
        with pytest.raises(KeyboardInterrupt):
            train(SETTINGS, tmp_path)
    time.sleep(1.01 - time.time() % 1)  # TensorBoard orders event files by the seconds in their names
    assert len(curves(tmp_path)["loss"]) == (1 if moment == "in an epoch" else 2)
    resumed = train(SETTINGS, tmp_path)
    assert resumed.metrics == checkpoint.metrics
    assert_curves(tmp_path, resumed.metrics["history"])
