"""Terms of the training loss and their gradients."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edge.training.attention import (
    ATTENTION_LOSSES,
    CONTRAST_PENALTY,
    AttentionLoss,
    cosine_loss,
    guarded_cosine_loss,
)
from edge.training.backbones import build_network
from edge.training.network import ExitOutputs
from edge.training.objective import DISTILLATION_TEMPERATURE, classification_loss, distillation_loss, objective
from edge.training.regimes import REGIMES, Phase, confidence_gated, every_exit, last_exit, residual
from edge.training.settings import Settings

SETTINGS = Settings(dataset="none", attention_weight=0.5, distillation_weight=0.25)
JOINT = Phase(every_exit)

every_attention_loss = pytest.mark.parametrize("loss", ATTENTION_LOSSES.values(), ids=ATTENTION_LOSSES)


def random_logits(exits: int = 3, samples: int = 5, classes: int = 4) -> Tensor:
    return torch.randn(exits, samples, classes, generator=torch.Generator().manual_seed(0))


def random_maps(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(2, 1, size, size, generator=generator).requires_grad_() for size in sizes]


def uniform_map(value: float, size: int = 7) -> Tensor:
    return torch.full((2, 1, size, size), value)


# Attention


@every_attention_loss
def test_the_attention_loss_has_gradients_for_early_maps_only(loss: AttentionLoss) -> None:
    maps = random_maps(8, 4, 4)
    loss(maps).backward()
    for early in maps[:-1]:
        assert early.grad is not None
        assert early.grad.abs().sum() > 0
    assert maps[-1].grad is None


@every_attention_loss
def test_a_single_exit_network_has_no_attention_loss(loss: AttentionLoss) -> None:
    assert loss(random_maps(4)).item() == 0


@every_attention_loss
def test_the_attention_loss_is_zero_for_equal_maps_and_the_mean_over_early_exits(loss: AttentionLoss) -> None:
    early, other, final = random_maps(4, 4, 4)
    assert loss([final, final]).item() == pytest.approx(0, abs=1e-6)
    mean = (loss([early, final]) + loss([other, final])) / 2
    torch.testing.assert_close(loss([early, other, final]), mean)
    torch.testing.assert_close(loss([early, final, final]), loss([early, final]) / 2)


@every_attention_loss
def test_a_gradient_step_lowers_the_attention_loss(loss: AttentionLoss) -> None:
    early, final = random_maps(4, 4)
    before = loss([early, final])
    [gradient] = torch.autograd.grad(before, [early])
    assert loss([early - 0.05 * gradient, final]) < before


def test_the_cosine_loss_is_zero_for_scaled_maps() -> None:
    [final] = random_maps(4)
    assert cosine_loss([0.5 * final, final]).item() == pytest.approx(0, abs=1e-5)


def test_the_cosine_loss_is_one_for_disjoint_maps() -> None:
    left, right = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    left[..., 0], right[..., 1] = 1, 1
    assert cosine_loss([left, right]).item() == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 0.5, 0.7, 0.999, 1.0])
def test_the_guarded_loss_penalises_a_uniform_early_map(value: float) -> None:
    [final], uniform = random_maps(7), uniform_map(value)
    penalty = guarded_cosine_loss([uniform, final]) - cosine_loss([uniform, final])
    assert penalty.item() == pytest.approx(CONTRAST_PENALTY, abs=1e-3)


@pytest.mark.parametrize("contrast", [0.25, 0.5, 1.0, 1.5])
def test_the_contrast_penalty_ends_at_the_contrast_of_the_final_map(contrast: float) -> None:
    [final] = random_maps(7)
    early = 0.5 + contrast * (final - final.mean(dim=(2, 3), keepdim=True))
    penalty = guarded_cosine_loss([early, final]) - cosine_loss([early, final])
    assert penalty.item() == pytest.approx(CONTRAST_PENALTY * max(0.0, 1 - contrast), abs=1e-6)


def test_the_cosine_loss_is_zero_for_uniform_maps() -> None:
    assert cosine_loss([uniform_map(0.3), uniform_map(0.8)]).item() == pytest.approx(0, abs=1e-6)


@every_attention_loss
@pytest.mark.parametrize("score", [-20.0, -1.0, 0.1, 2.0, 20.0])
def test_a_uniform_map_has_a_bounded_gradient(loss: AttentionLoss, score: float) -> None:
    scores = torch.full((2, 1, 7, 7), score, requires_grad=True)
    loss([scores.sigmoid(), *random_maps(7)]).backward()
    assert scores.grad is not None
    assert scores.grad.norm() < 1000


@every_attention_loss
def test_the_attention_loss_resizes_early_maps_to_the_final_map(loss: AttentionLoss) -> None:
    final = torch.tensor([[0.2, 0.4], [0.6, 0.8]]).reshape(1, 1, 2, 2)
    larger = final.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert loss([larger, final]).item() == pytest.approx(0, abs=1e-6)


# Distillation


def test_distillation_has_gradients_for_early_logits_only() -> None:
    logits = [exit_logits.clone().requires_grad_() for exit_logits in random_logits()]
    distillation_loss(torch.stack(logits)).backward()
    for early in logits[:-1]:
        assert early.grad is not None
        assert early.grad.abs().sum() > 0
    assert logits[-1].grad is not None
    assert bool((logits[-1].grad == 0).all())


def test_distillation_is_the_divergence_of_softened_distributions() -> None:
    logits = random_logits()
    *early, last = (logits / DISTILLATION_TEMPERATURE).softmax(dim=-1)
    divergences = [(last * (last / softened).log()).sum(dim=-1).mean() for softened in early]
    torch.testing.assert_close(distillation_loss(logits), DISTILLATION_TEMPERATURE**2 * sum(divergences) / 2)
    assert distillation_loss(logits[-1:].expand(3, -1, -1)).item() == pytest.approx(0, abs=1e-6)


def test_a_single_exit_network_has_no_distillation_loss() -> None:
    assert distillation_loss(random_logits(exits=1)).item() == 0


# Objective


def network_outputs(samples: int = 4) -> tuple[list[ExitOutputs], Tensor]:
    torch.manual_seed(0)
    outputs = build_network("cnn", channels=1, classes=4).eval()(torch.randn(samples, 1, 12, 12))
    return outputs, torch.arange(samples) % 4


def test_the_classification_loss_weights_each_sample() -> None:
    logits, labels = random_logits(), torch.tensor([0, 1, 2, 3, 0])
    weights = torch.rand(3, 5)
    losses = torch.stack([F.cross_entropy(exit_logits, labels, reduction="none") for exit_logits in logits])
    torch.testing.assert_close(classification_loss(logits, labels, weights), (weights * losses).sum() / 5)


@pytest.mark.parametrize("attention_loss", ATTENTION_LOSSES)
def test_the_objective_adds_attention_and_distillation_by_their_weights(attention_loss: str) -> None:
    outputs, labels = network_outputs()
    loss = objective(outputs, labels, dataclasses.replace(SETTINGS, attention_loss=attention_loss), JOINT, 0.0)
    assert loss.attention > 0
    assert loss.distillation > 0
    torch.testing.assert_close(loss.total, loss.classification + 0.5 * loss.attention + 0.25 * loss.distillation)
    maps = [output.attention for output in outputs]
    torch.testing.assert_close(loss.attention, ATTENTION_LOSSES[attention_loss](maps))
    torch.testing.assert_close(loss.distillation, distillation_loss(torch.stack([output.logits for output in outputs])))


def test_a_phase_that_trains_the_last_exit_has_no_attention_and_distillation_loss() -> None:
    outputs, labels = network_outputs()
    loss = objective(outputs, labels, SETTINGS, Phase(every_exit, trainable="last"), 0.0)
    torch.testing.assert_close(loss.total, loss.classification, rtol=0, atol=0)


def test_only_the_last_exits_loss_counts_in_the_first_phase_of_disjoint_and_mixed() -> None:
    for regime in ("disjoint", "mixed"):
        outputs, labels = network_outputs()
        loss = objective(outputs, labels, SETTINGS, REGIMES[regime][0], 0.0)
        torch.testing.assert_close(loss.total, F.cross_entropy(outputs[-1].logits, labels))


def test_the_objective_passes_the_progress_of_the_phase_to_the_loss_weights() -> None:
    outputs, labels = network_outputs()
    calls = []

    def loss_weights(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        calls.append((logits.requires_grad, progress))
        return last_exit(logits, labels, progress)

    loss = objective(outputs, labels, SETTINGS, Phase(loss_weights), 0.75)
    assert calls == [(False, 0.75)]
    torch.testing.assert_close(loss.exit_weights, torch.tensor([0.0, 0.0, 1.0]))


def test_no_gradient_flows_through_the_loss_weights_in_the_objective() -> None:
    """The weights of soft CGT are constants, although they are computed from the logits."""
    logits = random_logits().requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0])
    attention = torch.ones(5, 1, 2, 2)
    phase = Phase(confidence_gated(residual))
    outputs = [ExitOutputs(exit_logits, attention, ()) for exit_logits in logits]
    objective(outputs, labels, Settings(dataset="none", attention_weight=0.0), phase, 0.0).total.backward()
    error = logits.detach().softmax(dim=-1) - F.one_hot(labels, 4)
    weights = phase.loss_weights(logits.detach(), labels, 0.0)
    torch.testing.assert_close(logits.grad, weights.unsqueeze(-1) * error / 5)


def test_losses_of_half_precision_networks_are_computed_in_float32() -> None:
    outputs, labels = network_outputs()
    half_outputs = [ExitOutputs(output.logits.bfloat16(), output.attention.bfloat16(), ()) for output in outputs]
    loss = objective(half_outputs, labels, SETTINGS, JOINT, 0.0)
    assert {part.dtype for part in loss} == {torch.float32}
