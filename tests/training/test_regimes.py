"""Loss weights follow the formulas of the regimes, and phases cover all epochs."""

import pytest
import torch
from torch import Tensor

from edge.errors import DataError
from edge.training.backbones import build_network
from edge.training.network import MultiExitNetwork
from edge.training.objective import classification_loss, objective
from edge.training.regimes import (
    REGIMES,
    LossWeights,
    Phase,
    confidence_gated,
    early_exits,
    every_exit,
    last_exit,
    phase_ends,
    phases_of,
    residual,
    shallow_deep,
    true_class_confidence,
    unsolved,
)
from edge.training.settings import Settings

LABELS = torch.tensor([0, 1, 2, 3, 0])
EVERY_PHASE = [
    pytest.param(phase.loss_weights, id=f"{name} {index}")
    for name, phases in REGIMES.items()
    for index, phase in enumerate(phases)
]


def random_logits(exits: int = 3) -> Tensor:
    return 2 * torch.randn(exits, len(LABELS), 4, generator=torch.Generator().manual_seed(0))


def logits_for(probability: float, label: int, classes: int = 4) -> Tensor:
    """Return logits whose softmax is `probability` for the label and equal for the other classes."""
    softmax = torch.full((classes,), (1 - probability) / (classes - 1))
    softmax[label] = probability
    return softmax.log()


# Formulas


def test_joint_is_the_unweighted_sum_of_losses() -> None:
    logits = random_logits()
    unweighted = sum(torch.nn.functional.cross_entropy(exit_logits, LABELS) for exit_logits in logits)
    torch.testing.assert_close(classification_loss(logits, LABELS, every_exit(logits, LABELS, 0.0)), unweighted)


def test_last_exit_and_early_exits_are_complementary() -> None:
    logits = random_logits()
    torch.testing.assert_close(last_exit(logits, LABELS, 0.5)[:, 0], torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(early_exits(logits, LABELS, 0.5)[:, 0], torch.tensor([1.0, 1.0, 0.0]))


def test_soft_cgt_weights_are_products_of_residuals() -> None:
    logits = random_logits(exits=4)
    wrong = 1 - logits.softmax(-1)[:, range(5), LABELS]
    weights = confidence_gated(residual)(logits, LABELS, 0.0)
    expected = torch.stack([torch.ones(5), wrong[0], wrong[0] * wrong[1], wrong[0] * wrong[1] * wrong[2]])
    torch.testing.assert_close(weights, expected)


def test_true_class_confidence_is_the_softmax_of_each_samples_label() -> None:
    logits = torch.stack([logits_for(0.7, 0), logits_for(0.7, 0)])
    torch.testing.assert_close(true_class_confidence(logits, torch.tensor([0, 3])), torch.tensor([0.7, 0.1]))


@pytest.mark.parametrize(
    ("confidence", "predicted", "gate"),
    [(0.95, 1, 0.0), (0.85, 1, 1.0), (0.95, 2, 1.0), (0.85, 2, 1.0)],
    ids=["confident and correct", "correct", "confident but wrong", "neither"],
)
def test_the_hard_gate_closes_only_for_correct_and_confident_predictions(
    confidence: float, predicted: int, gate: float
) -> None:
    logits = logits_for(confidence, predicted).unsqueeze(0)
    assert unsolved(logits, torch.tensor([1])).tolist() == [gate]


def test_hard_cgt_weights_are_1_until_an_exit_solves_the_sample() -> None:
    solved, failed = logits_for(0.99, 2), logits_for(0.6, 2)
    exits = [[solved, failed, failed], [failed, solved, failed], [failed, failed, failed]]
    logits = torch.stack([torch.stack(samples) for samples in exits])
    weights = confidence_gated(unsolved)(logits, torch.full((3,), 2), 0.0)
    assert weights.tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]


HARD_CGT = confidence_gated(unsolved)


@pytest.mark.parametrize(
    ("loss_weights", "deeper"), [(HARD_CGT, False), (every_exit, True)], ids=["hard CGT", "every exit"]
)
def test_samples_solved_at_the_first_exit_give_deeper_heads_no_gradient_under_hard_cgt(
    loss_weights: LossWeights, deeper: bool
) -> None:
    network = network_that_predicts(2)
    assert heads_with_gradient(network, torch.full((6,), 2), loss_weights) == [True, deeper, deeper]


@pytest.mark.parametrize(("bias", "label"), [(100.0, 1), (1.0, 2)], ids=["confident but wrong", "correct"])
def test_unsolved_samples_give_every_head_a_gradient_under_hard_cgt(bias: float, label: int) -> None:
    network = network_that_predicts(2, bias=bias)
    assert heads_with_gradient(network, torch.full((6,), label), HARD_CGT) == [True, True, True]


def test_a_single_unsolved_sample_gives_deeper_heads_a_gradient_under_hard_cgt() -> None:
    network = network_that_predicts(2)
    assert heads_with_gradient(network, torch.tensor([2, 2, 0, 2, 2, 2]), HARD_CGT) == [True, True, True]


def network_that_predicts(label: int, bias: float = 20.0) -> MultiExitNetwork:
    """Return an untrained network whose first exit predicts this label for any input."""
    torch.manual_seed(0)
    network = build_network("cnn", channels=1, classes=4)
    with torch.no_grad():
        network.heads[0].classify.weight.mul_(0.1)
        network.heads[0].classify.bias.zero_()[label] = bias
    return network


def heads_with_gradient(network: MultiExitNetwork, labels: Tensor, loss_weights: LossWeights) -> list[bool]:
    """Return for each head whether any of its parameters gets a gradient other than 0."""
    outputs = network(torch.randn(len(labels), 1, 12, 12))
    settings = Settings(dataset="none", attention_weight=0.0)
    objective(outputs, labels, settings, Phase(loss_weights), 0.0).total.backward()
    return [any(bool((gradient_of(parameter) != 0).any()) for parameter in head.parameters()) for head in network.heads]


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_the_leak_is_the_weight_of_samples_solved_early() -> None:
    logits = torch.zeros(3, 1, 4)
    logits[0, 0, 2] = 100.0  # the first exit is confident and correct
    for gate in (unsolved, residual):
        weights = confidence_gated(gate, leak=0.3)(logits, torch.tensor([2]), 0.0)
        torch.testing.assert_close(weights[:, 0], torch.tensor([1.0, 0.3, 0.3]))


def test_the_gate_scales_the_weight_above_the_leak() -> None:
    logits = random_logits()
    without_leak = confidence_gated(residual)(logits, LABELS, 0.0)
    torch.testing.assert_close(confidence_gated(residual, leak=0.3)(logits, LABELS, 0.0), 0.3 + 0.7 * without_leak)


def test_the_leak_does_not_lower_the_weight_of_unsolved_samples() -> None:
    logits = torch.zeros(3, 1, 4)
    weights = confidence_gated(unsolved, leak=0.3)(logits, torch.tensor([2]), 0.0)
    torch.testing.assert_close(weights, torch.ones(3, 1))


def test_every_weight_is_1_during_warm_up() -> None:
    logits = random_logits()
    warmed_up, gated = confidence_gated(residual, warm_up=0.25), confidence_gated(residual)
    for progress in (0.0, 0.1, 0.2499):
        torch.testing.assert_close(warmed_up(logits, LABELS, progress), torch.ones(3, 5))
    for progress in (0.25, 0.5, 1.0):
        torch.testing.assert_close(warmed_up(logits, LABELS, progress), gated(logits, LABELS, progress))


def test_shallow_deep_weights_reach_the_papers_values() -> None:
    logits = torch.zeros(7, 2, 4)
    labels = torch.tensor([0, 1])
    paper = torch.tensor([0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0])
    torch.testing.assert_close(shallow_deep(logits, labels, 1.0), paper[:, None].expand(7, 2))
    start = torch.tensor([0.01] * 6 + [1.0])
    torch.testing.assert_close(shallow_deep(logits, labels, 0.0)[:, 0], start)
    half = torch.tensor([0.085, 0.16, 0.235, 0.31, 0.385, 0.46, 1.0])
    torch.testing.assert_close(shallow_deep(logits, labels, 0.5)[:, 0], half)


# All regimes


@pytest.mark.parametrize("loss_weights", EVERY_PHASE)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_loss_weights_of_every_phase_are_finite_and_detached(loss_weights: LossWeights, progress: float) -> None:
    logits = random_logits().requires_grad_()
    weights = loss_weights(logits, LABELS, progress)
    assert weights.shape == (3, 5)
    assert not weights.requires_grad
    assert bool((weights.isfinite() & (weights >= 0)).all())


@pytest.mark.parametrize("loss_weights", EVERY_PHASE)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_every_phase_has_loss_weights_for_a_single_exit(loss_weights: LossWeights, progress: float) -> None:
    """Truncated networks have a single exit."""
    weights = loss_weights(random_logits(exits=1), LABELS, progress)
    expected = torch.zeros(1, 5) if loss_weights is early_exits else torch.ones(1, 5)
    torch.testing.assert_close(weights.contiguous(), expected)


# Phases


@pytest.mark.parametrize("regime", REGIMES)
def test_phases_cover_all_epochs(regime: str) -> None:
    phases = REGIMES[regime]
    assert sum(phase.share for phase in phases) == pytest.approx(1)
    for epochs in range(len(phases), 40):
        ends = phase_ends(phases, Settings(dataset="none", regime=regime, epochs=epochs))
        assert ends[-1] == epochs
        assert all(first < then for first, then in zip((0, *ends), ends, strict=False)), "a phase has no epoch"


@pytest.mark.parametrize(("epochs", "ends"), [(2, (1, 2)), (3, (2, 3)), (12, (6, 12)), (60, (30, 60))])
def test_each_of_two_phases_has_half_of_the_epochs(epochs: int, ends: tuple[int, int]) -> None:
    for regime in ("mixed", "disjoint"):
        assert phase_ends(REGIMES[regime], Settings(dataset="none", regime=regime, epochs=epochs)) == ends


def test_fewer_epochs_than_phases_are_refused() -> None:
    with pytest.raises(DataError, match=r"'disjoint' has 2 phases .* got 1; raise --epochs to 2"):
        phase_ends(REGIMES["disjoint"], Settings(dataset="none", regime="disjoint", epochs=1))


def test_an_unknown_regime_is_refused_with_the_names_of_all_regimes() -> None:
    with pytest.raises(DataError, match=r"unknown regime 'soft'; the regimes are joint, disjoint, .*soft-cgt"):
        phases_of(Settings(dataset="none", regime="soft"))


def test_a_truncated_network_is_trained_jointly_whatever_its_regime() -> None:
    for regime in ("mixed", "soft-cgt-plain"):
        assert phases_of(Settings(dataset="none", regime=regime, truncated_at=1)) == REGIMES["joint"]
