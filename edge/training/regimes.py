"""Training regimes: how much each exit's loss counts for each sample, and which modules are trained when.

A regime is a sequence of phases. In each phase, a loss weighting maps the logits of all exits, shape
(exits, batch, classes), the labels, shape (batch,), and the progress through the phase, from 0 to 1, to the weight of
each exit's loss for each sample, shape (exits, batch). No gradient flows through the weights.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edge.errors import DataError
from edge.training.settings import Settings

LossWeights = Callable[[Tensor, Tensor, float], Tensor]
Gate = Callable[[Tensor, Tensor], Tensor]
"""Maps one exit's logits, (batch, classes), and the labels to the weight factor of deeper exits, (batch,), 0 to 1."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the training with its own loss weights and trainable modules."""

    loss_weights: LossWeights
    share: float = 1.0
    """Share of all epochs."""
    trainable: Literal["all", "early", "last"] = "all"
    """All modules, only the heads of early exits, or only the backbone with the last exit's head."""


def every_exit(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
    """Weight 1 for every exit and sample: the unweighted sum of losses."""
    return torch.ones(logits.shape[:2], device=logits.device)


def last_exit(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
    """Weight 1 for the last exit, 0 for early exits."""
    weights = torch.zeros(logits.shape[:2], device=logits.device)
    weights[-1] = 1
    return weights


def early_exits(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
    """Weight 1 for early exits, 0 for the last exit."""
    return 1 - last_exit(logits, labels, progress)


def shallow_deep(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
    """Shallow-Deep Networks (Kaya et al. 2019): weights of early exits grow during training, most for deep exits.

    `weight_k = min(c_k, 0.01 + progress * c_k)`, with `c_k` in equal steps up to 0.9 at the last early exit: 0.15, 0.3
    ... 0.9 for the six early exits of the paper. The weight of the last exit is 1.
    """
    exits = len(logits)
    final_weights = 0.9 * torch.arange(1, exits, device=logits.device) / max(exits - 1, 1)
    early_weights = torch.minimum(final_weights, 0.01 + progress * final_weights)
    weights = torch.cat([early_weights, final_weights.new_ones(1)])
    return weights.unsqueeze(1).expand(logits.shape[:2])


def confidence_gated(gate: Gate, *, warm_up: float = 0.0, leak: float = 0.0) -> LossWeights:
    """Return Confidence-Gated Training (arXiv 2509.17885): exits learn from samples on which all earlier exits fail.

    `weight_e = prod_{k<e} gate_k`; the weight of exit 0 is 1. The warm-up and the leak are additions of this project:
    as soon as the first exit fits the training images, the paper's formula leaves deep exits nothing to learn from.

    Args:
        gate: How far an exit fails on each sample.
        warm_up: Share of the phase in which every weight is 1.
        leak: Lowest weight of any sample: `leak + (1 - leak) * weight_e`.
    """

    def loss_weights(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        with torch.no_grad():
            if progress < warm_up:
                return every_exit(logits, labels, progress)
            gates = [gate(exit_logits, labels) for exit_logits in logits[:-1]]
            weights = torch.stack([torch.ones_like(logits[0, :, 0]), *gates]).cumprod(dim=0)
            return leak + (1 - leak) * weights

    return loss_weights


def unsolved(logits: Tensor, labels: Tensor, threshold: float = 0.9) -> Tensor:
    """Gate of HardCGT: 0 where the exit is correct with at least this confidence, else 1."""
    confidence, predicted = logits.softmax(dim=-1).max(dim=-1)
    return 1 - ((predicted == labels) & (confidence >= threshold)).float()


def residual(logits: Tensor, labels: Tensor) -> Tensor:
    """Gate of SoftCGT: `1 - p(y)`, with the exit's softmax `p(y)` of the true class."""
    return 1 - true_class_confidence(logits, labels)


def true_class_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the softmax of each sample's true class, shape (batch,)."""
    return logits.softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


REGIMES: dict[str, tuple[Phase, ...]] = {
    "joint": (Phase(every_exit),),
    "disjoint": (Phase(last_exit, 0.5, "last"), Phase(early_exits, 0.5, "early")),
    "mixed": (Phase(last_exit, 0.5, "last"), Phase(every_exit, 0.5)),
    "sdn": (Phase(shallow_deep),),
    "hard-cgt": (Phase(confidence_gated(unsolved, warm_up=0.25, leak=0.1)),),
    "soft-cgt": (Phase(confidence_gated(residual, warm_up=0.25, leak=0.5)),),
}
"""Regimes of `python -m edge.training`. The phases of any other regime are passed to `train`."""


def phases_of(settings: Settings) -> tuple[Phase, ...]:
    """Return the phases of a run's regime; truncated networks have a single exit, which `joint` trains.

    Raises:
        DataError: there is no regime of this name.
    """
    if settings.truncated_at is not None:
        return REGIMES["joint"]
    if settings.regime not in REGIMES:
        raise DataError(f"unknown regime {settings.regime!r}; the regimes are {', '.join(REGIMES)}")
    return REGIMES[settings.regime]


def phase_ends(phases: Sequence[Phase], settings: Settings) -> tuple[int, ...]:
    """Return the end of each phase: the number of epochs up to and including it.

    Raises:
        DataError: there are fewer epochs than phases.
    """
    if settings.epochs < len(phases):
        raise DataError(
            f"the regime {settings.regime!r} has {len(phases)} phases and needs an epoch for each, "
            f"got {settings.epochs}; raise --epochs to {len(phases)}"
        )
    shares = itertools.accumulate(phase.share for phase in phases)
    return tuple(max(index, round(share * settings.epochs)) for index, share in enumerate(shares, start=1))
