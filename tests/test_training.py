"""Regimes weigh samples as their formulas say; attention is guided without touching the final map."""

import dataclasses
from pathlib import Path

import pytest
import torch

from edge.errors import CheckpointError, DataError
from edge.training.attention import attention_consistency_loss
from edge.training.backbones import build_network
from edge.training.checkpoint import read_checkpoint
from edge.training.network import AttentionHead, pool_to_grid
from edge.training.recipe import CHECKPOINT, classification_loss, objective, train
from edge.training.regimes import joint, soft_cgt
from edge.training.settings import Settings

SETTINGS = Settings(
    dataset="digits", data=None, image_size=12, backbone="cnn", truncated_at=None, regime="soft-cgt",
    attention_weight=0.3, epochs=1, batch_size=64, learning_rate=2e-3, seed=3,
)  # fmt: skip


def random_logits(exits: int = 3, samples: int = 5, classes: int = 4) -> torch.Tensor:
    return torch.randn(exits, samples, classes, generator=torch.Generator().manual_seed(0))


def test_joint_is_the_plain_sum_of_losses() -> None:
    logits, labels = random_logits(), torch.tensor([0, 1, 2, 3, 0])
    plain = sum(torch.nn.functional.cross_entropy(one, labels) for one in logits)
    torch.testing.assert_close(classification_loss(logits, labels, joint), plain)


def test_soft_cgt_weighs_deeper_exits_by_how_far_all_earlier_ones_fail() -> None:
    logits, labels = random_logits(), torch.tensor([0, 1, 2, 3, 0])
    probability = logits.softmax(-1)[:, range(5), labels]
    weights = soft_cgt(logits, labels, leak=0.0)
    torch.testing.assert_close(weights[0], torch.ones(5))
    torch.testing.assert_close(weights[1], 1 - probability[0])
    torch.testing.assert_close(weights[2], (1 - probability[0]) * (1 - probability[1]))


def test_the_leak_keeps_deep_exits_learning_from_samples_solved_early() -> None:
    logits = torch.zeros(3, 1, 4)
    logits[0, 0, 2] = 100.0  # the first exit is sure and right
    weights = soft_cgt(logits, torch.tensor([2]), leak=0.3)
    torch.testing.assert_close(weights[:, 0], torch.tensor([1.0, 0.3, 0.3]))


def test_no_gradient_flows_through_the_gate() -> None:
    logits = random_logits().requires_grad_()
    assert not soft_cgt(logits, torch.tensor([0, 1, 2, 3, 0])).requires_grad


def test_attention_guidance_moves_early_maps_and_never_the_final_one() -> None:
    maps = [torch.rand(2, 1, size, size, requires_grad=True) for size in (8, 4, 4)]
    attention_consistency_loss(maps).backward()
    assert maps[0].grad is not None
    assert maps[0].grad.abs().sum() > 0
    assert maps[1].grad is not None
    assert maps[1].grad.abs().sum() > 0
    assert maps[2].grad is None


def test_attention_loss_is_zero_for_maps_of_one_direction_and_one_for_disjoint_maps() -> None:
    final = torch.rand(2, 1, 4, 4)
    assert attention_consistency_loss([2 * final, final]).item() == pytest.approx(0, abs=1e-6)
    left, right = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    left[..., 0], right[..., 1] = 1, 1
    assert attention_consistency_loss([left, right]).item() == pytest.approx(1)


def test_a_network_with_one_exit_has_no_attention_loss() -> None:
    assert attention_consistency_loss([torch.rand(2, 1, 4, 4)]).item() == 0


def test_the_objective_adds_attention_by_its_weight() -> None:
    outputs = build_network("cnn", channels=1, classes=4).eval()(torch.randn(2, 1, 12, 12))
    labels = torch.tensor([0, 3])
    without, attention = objective(outputs, labels, dataclasses.replace(SETTINGS, attention_weight=0.0))
    with_it, _ = objective(outputs, labels, dataclasses.replace(SETTINGS, attention_weight=0.5))
    torch.testing.assert_close(with_it, without + 0.5 * attention)


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8])
def test_pooling_to_a_grid_covers_every_pixel(size: int) -> None:
    features = torch.ones(1, 1, size, size, requires_grad=True)
    pooled = pool_to_grid(features, 2)
    assert pooled.shape == (1, 4)
    pooled.sum().backward()
    assert features.grad is not None
    assert bool((features.grad > 0).all())


def test_a_head_that_attends_nowhere_says_nothing_of_the_image() -> None:
    head = AttentionHead(channels=8, classes=3)
    torch.nn.init.constant_(head.attend.bias, -100.0)
    logits, attention = head(torch.randn(2, 8, 4, 4))
    assert attention.max() < 1e-6
    torch.testing.assert_close(logits[0], logits[1])


@pytest.mark.parametrize("exit_index", [0, 1, 2])
def test_a_truncated_network_computes_what_the_whole_one_says_at_that_exit(exit_index: int) -> None:
    network = build_network("cnn", channels=1, classes=4).eval()
    image = torch.randn(2, 1, 12, 12)
    [only] = network.truncated(exit_index)(image)
    torch.testing.assert_close(only.logits, network(image)[exit_index].logits, rtol=0, atol=0)


def test_unknown_backbones_and_exits_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"unknown backbone 'vgg'.*cnn"):
        build_network("vgg", 1, 10)
    with pytest.raises(CheckpointError, match="none with index 3"):
        build_network("cnn", 1, 10, truncated_at=3)


def test_the_same_seed_gives_the_same_network(tmp_path: Path) -> None:
    first, second = (train(SETTINGS, tmp_path / name) for name in ("first", "second"))
    assert first.metrics == second.metrics
    for name, weight in first.weights.items():
        assert torch.equal(weight, second.weights[name]), name
    again = read_checkpoint(tmp_path / "first" / CHECKPOINT)
    assert again.settings == SETTINGS
    assert again.splits == first.splits


def test_a_loss_that_is_no_number_stops_with_the_batch_it_happened_in(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the loss became .* in batch .* of epoch 0"):
        train(dataclasses.replace(SETTINGS, learning_rate=1e30), tmp_path)


def test_a_batch_larger_than_the_training_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="batch size 5000 is more than"):
        train(dataclasses.replace(SETTINGS, batch_size=5000), tmp_path)
