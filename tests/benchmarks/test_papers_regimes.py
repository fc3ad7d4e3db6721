"""Loss weights of the papers' regimes follow their formulas."""

import pytest
import torch
from torch import Tensor

from benchmarks.papers.regimes import PAPER_REGIMES, steep_residual
from edge.training.regimes import REGIMES, LossWeights, confidence_gated

LABELS = torch.tensor([0, 1, 2, 3, 0])
EVERY_PHASE = [
    pytest.param(phase.loss_weights, id=f"{name} {index}")
    for name, phases in PAPER_REGIMES.items()
    for index, phase in enumerate(phases)
]


def random_logits(exits: int = 3) -> Tensor:
    return 2 * torch.randn(exits, len(LABELS), 4, generator=torch.Generator().manual_seed(0))


def test_regimes_of_the_papers_are_not_in_the_training_command() -> None:
    assert not REGIMES.keys() & PAPER_REGIMES.keys()


def test_plain_soft_cgt_weights_are_1_for_the_first_exit_and_residuals_for_the_second() -> None:
    logits = random_logits(exits=2)
    [phase] = PAPER_REGIMES["soft-cgt-plain"]
    residuals = 1 - logits.softmax(-1)[0, range(5), LABELS]
    torch.testing.assert_close(phase.loss_weights(logits, LABELS, 0.0), torch.stack([torch.ones(5), residuals]))


def test_steep_soft_cgt_weights_are_products_of_sigmoids() -> None:
    logits = random_logits()
    gates = 1 - torch.sigmoid(20 * (logits.softmax(-1)[:, range(5), LABELS] - 0.9))
    weights = confidence_gated(steep_residual)(logits, LABELS, 0.0)
    torch.testing.assert_close(weights, torch.stack([torch.ones(5), gates[0], gates[0] * gates[1]]))


def test_the_steep_gate_is_open_for_unsolved_and_nearly_closed_for_solved_samples() -> None:
    confidence = torch.tensor([0.001, 0.9, 0.999])
    logits = torch.stack([confidence, 1 - confidence], dim=1).log()
    gate = steep_residual(logits, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(gate, torch.tensor([1.0, 0.5, 0.12]), atol=2e-3, rtol=0)


@pytest.mark.parametrize("loss_weights", EVERY_PHASE)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_loss_weights_of_every_phase_are_finite_and_detached(loss_weights: LossWeights, progress: float) -> None:
    weights = loss_weights(random_logits().requires_grad_(), LABELS, progress)
    assert weights.shape == (3, 5)
    assert not weights.requires_grad
    assert bool((weights.isfinite() & (weights >= 0)).all())


@pytest.mark.parametrize("loss_weights", EVERY_PHASE)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_every_phase_has_loss_weights_for_a_single_exit(loss_weights: LossWeights, progress: float) -> None:
    torch.testing.assert_close(loss_weights(random_logits(exits=1), LABELS, progress), torch.ones(1, 5))


@pytest.mark.parametrize("regime", PAPER_REGIMES)
def test_phases_cover_all_epochs(regime: str) -> None:
    assert sum(phase.share for phase in PAPER_REGIMES[regime]) == pytest.approx(1)
