"""The training loop: frozen and trainable modules of each phase, and resumed runs."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edge.bundle.manifest import SplitSpec
from edge.errors import CheckpointError, DataError
from edge.training.augment import Augmentation, random_mirror, random_shift
from edge.training.backbones.cnn import build_cnn
from edge.training.data import measured_input
from edge.training.datasets.base import LabelledImages
from edge.training.loading import PreprocessedImages
from edge.training.loop import TrainingRun
from edge.training.network import conv_bn_relu
from edge.training.regimes import REGIMES, phases_of
from edge.training.settings import Settings
from edge.training.state import StateFile

SAMPLES = 50
SETTINGS = Settings(
    dataset="made", epochs=4, batch_size=16, attention_weight=0.3, distillation_weight=0.5, learning_rate=5e-3, seed=3
)
STEPS = 3
"""Batches per epoch; the fourth would be incomplete."""


def samples() -> PreprocessedImages:
    """Return images of three classes that differ in brightness."""
    labels = np.arange(SAMPLES) % 3
    noise = np.random.default_rng(0).integers(0, 60, (SAMPLES, 12, 12))
    frames = (noise + 60 * labels[:, None, None]).astype(np.uint8)
    digests = [str(index) for index in range(SAMPLES)]
    images = LabelledImages("made", frames, labels, ("a", "b", "c"), "image", "gray", (1, 12, 12), digests)
    return PreprocessedImages(images, np.arange(SAMPLES), measured_input(images, np.arange(SAMPLES)))


def new_run(folder: Path, splits: dict[str, SplitSpec] | None = None, **changes: Any) -> TrainingRun:
    settings = dataclasses.replace(SETTINGS, **changes)
    torch.manual_seed(settings.seed)
    network = build_cnn(channels=1, classes=3, width=8)
    if settings.truncated_at is not None:
        network = network.truncated(settings.truncated_at)
    return TrainingRun(
        network,
        settings,
        phases_of(settings),
        samples(),
        Augmentation((random_shift, random_mirror)),
        StateFile(folder / "state.pt", settings, splits or {}),
    )


def train_until(run: TrainingRun, until: int | None = None) -> list[dict[str, Any]]:
    """Train the remaining epochs, saving after each, as `train` does."""
    history = run.resume()
    for epoch in range(len(history), run.settings.epochs if until is None else until):
        history.append(run.epoch(epoch, on_step=lambda: None))
        run.save(history)
    return history


def weights_of(run: TrainingRun) -> dict[str, Tensor]:
    return {name: tensor.cpu().clone() for name, tensor in run.network.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


# Phases


@pytest.mark.parametrize("resumed", [False, True], ids=["uninterrupted", "resumed"])
def test_the_second_phase_of_disjoint_trains_only_early_heads(resumed: bool, tmp_path: Path) -> None:
    """All others keep their weights and their statistics of batch normalisation, bit for bit."""
    run = new_run(tmp_path, regime="disjoint")
    run.network.heads[2].neck = conv_bn_relu(32, 32)
    history = [run.epoch(epoch, on_step=lambda: None) for epoch in range(2)]
    before = weights_of(run)
    assert {name.split(".")[0] for name in before if "running_mean" in name} == {"backbone", "heads"}
    if resumed:
        run.save(history)
        assert run.resume() == history
    for epoch in range(2, 4):
        run.epoch(epoch, on_step=lambda: None)
    assert changed(before, weights_of(run)) == {name for name in before if name.startswith(("heads.0.", "heads.1."))}


def test_the_first_phase_of_disjoint_trains_backbone_and_last_head(tmp_path: Path) -> None:
    run = new_run(tmp_path, regime="disjoint")
    before = weights_of(run)
    train_until(run, until=2)
    trained = changed(before, weights_of(run))
    assert trained >= {name for name in before if name.startswith(("backbone.", "heads.2."))}


@pytest.mark.parametrize("regime", ["disjoint", "mixed"])
def test_early_heads_are_frozen_while_only_the_last_exit_is_trained(regime: str, tmp_path: Path) -> None:
    run = new_run(tmp_path, regime=regime, attention_weight=1.0, distillation_weight=1.0)
    before = weights_of(run)
    train_until(run, until=2)
    trained = changed(before, weights_of(run))
    assert trained
    assert not [name for name in trained if name.startswith(("heads.0.", "heads.1."))]


def test_early_exits_do_not_influence_the_backbone_in_the_first_phase_of_disjoint(tmp_path: Path) -> None:
    """Neither through their loss nor through guidance and distillation."""
    runs = [
        new_run(tmp_path / str(weight), regime="disjoint", attention_weight=weight, distillation_weight=weight)
        for weight in (0.0, 1.0)
    ]
    for run in runs:
        with torch.no_grad():
            for parameter in run.network.heads[0].parameters():
                parameter.add_(run.settings.attention_weight)
        train_until(run, until=2)
    first, second = map(weights_of, runs)
    assert all(name.startswith("heads.0.") for name in changed(first, second))


def test_mixed_trains_everything_in_its_second_phase(tmp_path: Path) -> None:
    run = new_run(tmp_path, regime="mixed")
    train_until(run, until=2)
    before = weights_of(run)
    history = train_until(run)
    assert [row["exit_weights"] for row in history] == [[0, 0, 1]] * 2 + [[1, 1, 1]] * 2
    assert changed(before, weights_of(run)) == set(before)


def test_an_epoch_returns_its_losses_and_exit_weights(tmp_path: Path) -> None:
    [row] = train_until(new_run(tmp_path, regime="sdn"), until=1)
    assert set(row) == {"loss", "classification_loss", "attention_loss", "distillation_loss", "exit_weights"}
    total = row["classification_loss"] + 0.3 * row["attention_loss"] + 0.5 * row["distillation_loss"]
    assert row["loss"] == pytest.approx(total, rel=1e-5)
    progress = sum(step / STEPS / 4 for step in range(STEPS)) / STEPS
    assert row["exit_weights"] == pytest.approx([0.01 + 0.45 * progress, 0.01 + 0.9 * progress, 1.0])


@pytest.mark.parametrize("regime", REGIMES)
def test_every_regime_trains_all_exits_to_better_than_chance(regime: str, tmp_path: Path) -> None:
    run = new_run(tmp_path, regime=regime, epochs=24)
    train_until(run)
    assert (training_accuracy(run) > 0.6).all()


def training_accuracy(run: TrainingRun) -> Tensor:
    """Return each exit's accuracy on the training samples."""
    images, labels = samples().__getitems__(range(SAMPLES))
    with torch.no_grad():
        logits = torch.stack([output.logits for output in run.network.eval()(images.to(run.fabric.device))]).cpu()
    return (logits.argmax(dim=-1) == labels).float().mean(dim=1)


@pytest.mark.parametrize("regime", REGIMES)
def test_every_regime_trains_a_single_exit_network(regime: str, tmp_path: Path) -> None:
    """The benchmarks compare early exits with truncated networks trained with the same settings."""
    history = train_until(new_run(tmp_path, regime=regime, truncated_at=1))
    assert history[-1]["classification_loss"] < history[0]["classification_loss"]
    assert all(row["attention_loss"] == row["distillation_loss"] == 0 for row in history)


# Invalid settings


def test_fewer_epochs_than_phases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'mixed' has 2 phases .* got 1; raise --epochs to 2"):
        new_run(tmp_path, regime="mixed", epochs=1)


def test_a_batch_larger_than_the_training_split_is_lowered_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path, batch_size=SAMPLES + 1)
    assert run.steps == 1
    assert f"batch size {SAMPLES + 1} is lowered to {SAMPLES}" in capsys.readouterr().err


def test_balanced_losses_weigh_every_class_the_same(tmp_path: Path) -> None:
    weights = new_run(tmp_path, balance=True)._class_weights
    assert weights is not None
    counts = torch.bincount(torch.arange(SAMPLES) % 3)
    torch.testing.assert_close(weights * counts, torch.full((3,), SAMPLES / 3))
    assert new_run(tmp_path)._class_weights is None


def test_a_nan_loss_stops_with_its_batch_and_epoch(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    history = train_until(run, until=2)
    with torch.no_grad():
        run.network.heads[1].classify.bias.fill_(torch.nan)
    with pytest.raises(DataError, match=r"the loss became nan in batch 0 of epoch 2; lower --learning-rate"):
        run.epoch(2, on_step=lambda: None)
    assert train_until(new_run(tmp_path), until=2) == history


# Interruption


def interrupt(folder: Path, epoch: int, steps: int, **changes: Any) -> None:
    """Train, and interrupt after some batches of an epoch."""
    run = new_run(folder, **changes)
    train_until(run, until=epoch)
    remaining = iter(range(steps))

    def stop() -> None:
        if next(remaining, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.epoch(epoch, on_step=stop)


@pytest.mark.parametrize("regime", ["disjoint", "mixed", "soft-cgt"])
@pytest.mark.parametrize("epoch", [1, 2, 3], ids=["first phase", "start of second phase", "second phase"])
def test_a_resumed_run_equals_an_uninterrupted_run(regime: str, epoch: int, tmp_path: Path) -> None:
    uninterrupted = new_run(tmp_path / "uninterrupted", regime=regime)
    expected = train_until(uninterrupted)
    interrupt(tmp_path / "interrupted", epoch, steps=1, regime=regime)
    torch.manual_seed(77)
    resumed = new_run(tmp_path / "interrupted", regime=regime)
    assert train_until(resumed) == expected
    assert not changed(weights_of(uninterrupted), weights_of(resumed))
    assert not changed(uninterrupted.result(), resumed.result())  # the averaged weights, too


def test_a_run_is_not_resumed_with_other_batches(tmp_path: Path) -> None:
    train_until(new_run(tmp_path), until=1)
    other = new_run(tmp_path)
    other.batch_size += 1  # as with another number of processes
    with pytest.raises(CheckpointError, match=r"images per step.*start as many processes as before"):
        other.resume()


def test_the_epoch_that_was_kept_survives_an_interruption(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    history = train_until(run, until=1)
    run.keep()
    kept = run.result()
    history.append(run.epoch(1, on_step=lambda: None))
    run.save(history)
    resumed = new_run(tmp_path)
    resumed.resume()
    assert not changed(kept, resumed.result())
    assert changed(kept, dict(resumed.average.state_dict()))


def test_the_result_is_the_average_of_the_weights_and_not_the_last_ones(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    train_until(run, until=2)
    assert {"backbone.stages.0.0.0.weight", "heads.0.classify.weight"} <= changed(weights_of(run), run.result())


def test_a_run_can_be_resumed_repeatedly(tmp_path: Path) -> None:
    uninterrupted = new_run(tmp_path / "uninterrupted", regime="disjoint")
    expected = train_until(uninterrupted)
    for epoch in (1, 1, 2, 3, 3):
        interrupt(tmp_path / "interrupted", epoch, steps=2, regime="disjoint")
    resumed = new_run(tmp_path / "interrupted", regime="disjoint")
    assert train_until(resumed) == expected
    assert not changed(weights_of(uninterrupted), weights_of(resumed))


def test_a_run_resumed_after_its_last_epoch_is_complete(tmp_path: Path) -> None:
    first = new_run(tmp_path, regime="disjoint")
    history = train_until(first)
    again = new_run(tmp_path, regime="disjoint")
    assert again.resume() == history
    assert not changed(weights_of(first), weights_of(again))


def test_the_seed_determines_the_run(tmp_path: Path) -> None:
    runs = [new_run(tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    first, same, other = (train_until(run, until=2) for run in runs)
    assert first == same != other
    assert not changed(*map(weights_of, runs[:2]))


def test_a_state_of_other_settings_or_other_images_is_refused(tmp_path: Path) -> None:
    splits = {"train": SplitSpec(SAMPLES, "0" * 32)}
    train_until(new_run(tmp_path, splits), until=1)
    other_runs = ({"splits": {"train": SplitSpec(SAMPLES, "1" * 32)}}, {"seed": 4}, {"regime": "sdn"}, {"epochs": 5})
    for changes in other_runs:
        run = new_run(tmp_path, **{"splits": splits, **changes})
        before = weights_of(run)
        with pytest.raises(
            CheckpointError, match=r"state\.pt is from an unfinished run with other settings, images or"
        ):
            run.resume()
        assert not changed(before, weights_of(run))
    assert len(new_run(tmp_path, splits).resume()) == 1


def test_a_run_without_a_state_starts_at_epoch_0(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    before = weights_of(run)
    assert run.resume() == []
    assert not changed(before, weights_of(run))


# Precision


def test_mixed_precision_keeps_float32_weights_and_learns(tmp_path: Path) -> None:
    run = new_run(tmp_path, mixed_precision=True, epochs=8)
    history = train_until(run)
    assert {tensor.dtype for tensor in weights_of(run).values()} == {torch.float32, torch.int64}
    assert history[-1]["loss"] < history[0]["loss"]
    assert (training_accuracy(run) > 0.6).all()
