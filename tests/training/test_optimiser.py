"""The fine-tuning recipe: rates, weight decay, averaged weights, frozen backbones, patience and batch sizes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge.errors import DataError
from edge.training.backbones.cnn import build_cnn
from edge.training.checkpoint import Checkpoint
from edge.training.loop import fitting_batch_size
from edge.training.network import MultiExitNetwork
from edge.training.optimiser import average_of, make_optimizer, make_schedule, moving_average
from edge.training.settings import Settings
from edge.training.train import METRICS, best_epoch, has_stopped, train

SETTINGS = Settings(dataset="digits", image_size=12, backbone="cnn-small", epochs=2, batch_size=128, learning_rate=4e-3)


def groups_of(settings: Settings) -> tuple[MultiExitNetwork, dict[str, tuple[float, float]]]:
    """Return a network, and learning rate and weight decay of each parameter by name."""
    network = build_cnn(channels=1, classes=3, width=8)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return network, {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in make_optimizer(network, settings).param_groups
        for parameter in group["params"]
    }


def test_weights_decay_but_biases_and_normalisation_do_not() -> None:
    network, groups = groups_of(SETTINGS)
    assert groups.keys() == {name for name, _ in network.named_parameters()}
    for name, parameter in network.named_parameters():
        assert (groups[name][1] > 0) == (parameter.ndim > 1), name
    assert {rate for rate, _ in groups.values()} == {4e-3}


def test_a_pretrained_backbone_learns_at_a_lower_rate_than_the_heads() -> None:
    _, groups = groups_of(dataclasses.replace(SETTINGS, pretrained="weights.pt"))
    backbone = {rate for name, (rate, _) in groups.items() if name.startswith("backbone.")}
    heads = {rate for name, (rate, _) in groups.items() if name.startswith("heads.")}
    assert heads == {4e-3}
    assert len(backbone) == 1
    assert max(backbone) < 4e-3


def test_every_rate_warms_up_to_its_maximum_and_falls_to_about_zero() -> None:
    network = build_cnn(channels=1, classes=3, width=8)
    optimizer = make_optimizer(network, dataclasses.replace(SETTINGS, pretrained="weights.pt"))
    maxima = [group["lr"] for group in optimizer.param_groups]
    schedule, rates = make_schedule(optimizer, 100), []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    for series, maximum in zip(np.transpose(rates), maxima, strict=True):
        peak = int(series.argmax())
        assert series[peak] == pytest.approx(maximum, rel=0.01)
        assert series[0] < maximum / 10
        assert series[-1] < maximum / 1000
        assert (np.diff(series[: peak + 1]) > 0).all()
        assert (np.diff(series[peak:]) < 0).all()


def test_the_average_of_equal_values_is_exact_and_of_a_ramp_lags_by_a_tenth() -> None:
    constant = torch.tensor([0.1, 1e-8, 3e7])
    average = constant.clone()
    for count in range(1, 50):
        average = moving_average(average, constant, count)
    assert torch.equal(average, constant)
    average = torch.tensor(0.0, dtype=torch.float64)
    for count in range(1, 1001):
        average = moving_average(average, torch.tensor(float(count), dtype=torch.float64), count)
    assert 1000 - float(average) == pytest.approx(100, rel=0.1)


def test_the_average_holds_batch_statistics_and_counts_too() -> None:
    torch.manual_seed(0)
    network = build_cnn(channels=1, classes=3, width=8)
    average = average_of(network)
    for _ in range(3):
        network.train()(torch.randn(8, 1, 12, 12) + 5)
        average.update_parameters(network)
    ours, theirs = average.module.state_dict(), network.state_dict()
    for name, tensor in theirs.items():
        if name.endswith("num_batches_tracked"):
            assert int(ours[name]) == int(tensor) == 3
        elif name.endswith("running_mean"):
            assert float((ours[name] - tensor).abs().max()) > 0  # a mean of the last three


# Runs


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    """Return a trained network's file and checkpoint."""
    folder = tmp_path_factory.mktemp("donor")
    return folder / "checkpoint.pt", train(SETTINGS, folder)


def test_a_frozen_backbone_keeps_weights_and_statistics_while_the_heads_learn(
    donor: tuple[Path, Checkpoint], tmp_path: Path
) -> None:
    path, pretrained = donor
    settings = dataclasses.replace(SETTINGS, pretrained=str(path), freeze=True)
    weights = train(settings, tmp_path).weights
    same = {name for name, tensor in weights.items() if torch.equal(tensor, pretrained.weights[name])}
    assert same == {name for name in weights if name.startswith("backbone.")}


def test_freezing_random_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"freezing needs a pretrained backbone; give --pretrained"):
        train(dataclasses.replace(SETTINGS, freeze=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def history_of(*accuracies: float) -> list[dict[str, Any]]:
    return [{"validation_accuracy": [accuracy, accuracy]} for accuracy in accuracies]


def test_the_best_epoch_is_the_later_of_equals_in_the_last_phase() -> None:
    assert best_epoch(history_of(0.1, 0.9, 0.5, 0.9, 0.8), first=0) == 3
    assert best_epoch(history_of(0.1, 0.9, 0.5, 0.6, 0.4), first=2) == 3
    assert best_epoch(history_of(0.9, 0.5), first=2) == 1
    assert best_epoch([], first=0) == -1


def test_patience_counts_from_the_first_of_equal_epochs_of_the_last_phase() -> None:
    assert not has_stopped(history_of(0.9, 0.9, 0.9), first=0, patience=3)
    assert has_stopped(history_of(0.9, 0.9, 0.9, 0.9), first=0, patience=3)
    assert not has_stopped(history_of(0.8, 0.8, 0.8, 0.9), first=0, patience=3)
    assert not has_stopped(history_of(0.9, 0.9, 0.5, 0.5), first=2, patience=2)
    assert has_stopped(history_of(0.9, 0.9, 0.5, 0.5, 0.5), first=2, patience=2)
    assert not has_stopped(history_of(0.9), first=2, patience=1)
    assert not has_stopped([], first=0, patience=1)
    assert not has_stopped(history_of(*[0.5] * 31), first=0, patience=None)


def test_patience_stops_a_run_that_does_not_improve_and_keeps_its_best_epoch(
    donor: tuple[Path, Checkpoint], tmp_path: Path
) -> None:
    """The growing rate ruins a trained network."""
    path, _ = donor
    settings = dataclasses.replace(SETTINGS, pretrained=str(path), learning_rate=0.5, epochs=30, patience=2)
    checkpoint = train(settings, tmp_path)
    history = checkpoint.metrics["history"]
    best = best_epoch(history, 0)
    assert has_stopped(history, 0, 2)
    assert not has_stopped(history[:-1], 0, 2)
    assert len(history) < 30
    assert checkpoint.metrics["kept_epoch"] == best
    validation = json.loads((tmp_path / METRICS).read_text())["validation"]
    confusion = np.array(validation["confusion_matrix"])
    assert np.trace(confusion) / confusion.sum() == pytest.approx(history[best]["validation_accuracy"][-1])


# Batch sizes


@pytest.mark.parametrize(
    ("samples", "processes", "expected"),
    [(10_000, 1, 64), (640, 1, 64), (300, 1, 30), (25, 1, 2), (5, 1, 2), (10_000, 3, 63), (300, 4, 28)],
)
def test_the_default_batch_leaves_ten_steps_an_epoch_and_divides_among_processes(
    samples: int, processes: int, expected: int
) -> None:
    assert fitting_batch_size(None, samples, processes) == expected
