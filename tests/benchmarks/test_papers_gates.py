"""Gates, loss weights and gradient equilibrium follow their formulas."""

import pytest
import torch
from torch import Tensor

from benchmarks.papers.equilibrium import equalise_gradients
from benchmarks.papers.gates import budget_gated, calibrated_residual, steep_residual
from benchmarks.papers.methods import METHODS
from edge.bundle.manifest import InputSpec
from edge.training.backbones import build_network
from edge.training.network import MultiExitNetwork
from edge.training.regimes import REGIMES, LossWeights, confidence_gated, residual

LABELS = torch.tensor([0, 1, 2, 3, 0])
EVERY_PHASE = [
    pytest.param(phase.loss_weights, id=f"{name} {index}")
    for name, method in METHODS.items()
    for index, phase in enumerate(method.phases or ())
]


def random_logits(exits: int = 3, samples: int = 5) -> Tensor:
    return 2 * torch.randn(exits, samples, 4, generator=torch.Generator().manual_seed(0))


def random_labels(samples: int) -> Tensor:
    return torch.randint(0, 4, (samples,), generator=torch.Generator().manual_seed(1))


def test_regimes_of_the_comparison_are_not_in_the_training_command() -> None:
    assert not REGIMES.keys() & {name for name, method in METHODS.items() if method.phases}


def test_plain_soft_cgt_weights_are_1_for_the_first_exit_and_residuals_for_the_second() -> None:
    logits = random_logits(exits=2)
    [phase] = METHODS["soft-cgt-plain"].phases or ()
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


def test_the_calibrated_gate_does_not_depend_on_the_scale_of_the_logits() -> None:
    logits, labels = random_logits(exits=1, samples=400)[0] / 2, random_labels(400)
    labels = torch.where(torch.rand(400, generator=torch.Generator().manual_seed(2)) < 0.6, logits.argmax(-1), labels)
    gate, overconfident = calibrated_residual(logits, labels), calibrated_residual(2 * logits, labels)
    torch.testing.assert_close(overconfident, gate, atol=0.03, rtol=0)
    assert (residual(2 * logits, labels) - residual(logits, labels)).abs().max() > 0.1


def test_the_rank_gate_passes_on_the_same_share_however_confident_an_exit_is() -> None:
    logits, labels = random_logits(samples=64), random_labels(64)
    logits[0] += 20 * torch.nn.functional.one_hot(labels, 4)  # every sample is solved
    weights = budget_gated(kept=0.25, leak=0.1)(logits, labels, 0.5)
    assert [(exit_weights == 1).sum().item() for exit_weights in weights] == [64, 16, 4]
    assert ((weights == 1) | torch.isclose(weights, torch.tensor(0.1))).all()


def test_the_rank_gate_passes_on_the_least_confident_samples_of_those_that_arrived() -> None:
    logits, labels = random_logits(samples=64), random_labels(64)
    first, second, third = budget_gated(kept=0.5, leak=0.0)(logits, labels, 0.5).bool()
    doubts = [residual(exit_logits, labels) for exit_logits in logits]
    assert doubts[0][second].min() >= doubts[0][first & ~second].max()
    assert doubts[1][third].min() >= doubts[1][second & ~third].max()
    assert not (third & ~second).any()


@pytest.mark.parametrize("loss_weights", EVERY_PHASE)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_loss_weights_of_every_phase_are_finite_and_detached(loss_weights: LossWeights, progress: float) -> None:
    weights = loss_weights(random_logits(), LABELS, progress)
    assert weights.shape == (3, 5)
    assert not weights.requires_grad
    assert bool((weights.isfinite() & (weights >= 0)).all())


@pytest.mark.parametrize("loss_weights", EVERY_PHASE)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_every_phase_has_loss_weights_for_a_single_exit(loss_weights: LossWeights, progress: float) -> None:
    torch.testing.assert_close(loss_weights(random_logits(exits=1), LABELS, progress), torch.ones(1, 5))


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.phases])
def test_phases_cover_all_epochs(method: str) -> None:
    assert sum(phase.share for phase in METHODS[method].phases or ()) == pytest.approx(1)


# Gradient equilibrium


SPEC = InputSpec("image", "gray", 1, 16, 16, (0.0,), (1.0,))


def exit_gradients(network: MultiExitNetwork, images: Tensor, parameter: Tensor) -> list[Tensor]:
    """Return the gradient of each exit's logits with respect to a parameter."""
    sums = [output.logits.square().sum() for output in network(images)]
    gradients = [torch.autograd.grad(total, parameter, retain_graph=True, allow_unused=True)[0] for total in sums]
    return [torch.zeros_like(parameter) if gradient is None else gradient for gradient in gradients]


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("backbone.stages.0.0.0.weight", (1 / 3, 1 / 3, 1 / 3)),
        ("backbone.stages.1.0.0.weight", (0, 1 / 2, 1 / 2)),
        ("backbone.stages.2.0.0.weight", (0, 0, 1)),
        ("heads.0.classify.weight", (1, 0, 0)),
        ("heads.1.neck.0.weight", (0, 1, 0)),
    ],
)
def test_equilibrium_averages_the_gradients_of_the_exits_from_a_stage_on(name: str, factors: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    network, images = build_network("cnn:4", 1, 3).eval(), torch.randn(4, 1, 16, 16)
    parameter = network.get_parameter(name)
    before = exit_gradients(network, images, parameter)
    outputs = [output.logits for output in network(images)]
    equalise_gradients(network, SPEC)
    after = sum(exit_gradients(network, images, parameter))
    expected = sum(factor * gradient for factor, gradient in zip(factors, before, strict=True))
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)
    for output, same in zip(network(images), outputs, strict=True):
        assert torch.equal(output.logits, same)
