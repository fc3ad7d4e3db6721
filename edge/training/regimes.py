"""Training regimes: which exits learn from which samples, and when.

A regime is a sequence of phases. In each, a weighing function takes the logits of all exits, shape
(exits, batch, classes), the labels, shape (batch,), and the progress through the phase, from 0 to 1; it returns the
weight of each exit's loss for each sample, shape (exits, batch), through which no gradient flows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Weigh = Callable[[Tensor, Tensor, float], Tensor]
Gate = Callable[[Tensor, Tensor], Tensor]
"""Takes one exit's logits, (batch, classes), and the labels; returns how far it fails on each sample, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the training with one aim."""

    weigh: Weigh
    share: float = 1.0
    """Of all epochs."""
    learners: Literal["all", "early", "last"] = "all"
    """What learns: everything, only the heads of early exits, or only the backbone and the last exit's head."""


def every_exit(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
    """Every exit counts fully for every sample: the plain sum of losses."""
    return torch.ones(logits.shape[:2], device=logits.device)


def last_exit(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
    """Only the last exit learns: the network without early exits."""
    weights = torch.zeros(logits.shape[:2], device=logits.device)
    weights[-1] = 1
    return weights


def early_exits(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
    """All exits but the last learn."""
    return 1 - last_exit(logits, labels, progress)


def shallow_deep(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
    """Shallow-Deep Networks (Kaya et al. 2019): early exits count little at first, deeper ones come to count more.

    `weight_k = min(c_k, 0.01 + progress * c_k)` with `c_k` rising in equal steps to 0.9 at the last early exit; the
    paper's 0.15, 0.3 ... 0.9 for its six. The last exit counts fully.
    """
    exits = len(logits)
    highest = 0.9 * torch.arange(1, exits, device=logits.device) / max(exits - 1, 1)
    weights = torch.cat([torch.minimum(highest, 0.01 + progress * highest), highest.new_ones(1)])
    return weights.unsqueeze(1).expand(logits.shape[:2])


def confidence_gated(gate: Gate, *, warm_up: float = 0.0, leak: float = 0.0) -> Weigh:
    """Return Confidence-Gated Training (arXiv 2509.17885): deeper exits learn where all earlier ones fail.

    `weight_e = prod_{k<e} gate_k`, so that the weight of exit 0 is 1. What follows is ours, and off by default: as
    soon as the first exit fits the training images, a plain gate leaves the deep exits nothing to learn from.

    Args:
        gate: How far one exit fails.
        warm_up: Share of the phase in which every exit counts fully.
        leak: Weight that solved samples keep: `leak + (1 - leak) * weight_e`.
    """

    def weigh(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        with torch.no_grad():
            if progress < warm_up:
                return every_exit(logits, labels, progress)
            passed_on = [gate(exit_logits, labels) for exit_logits in logits[:-1]]
            weights = torch.stack([torch.ones_like(logits[0, :, 0]), *passed_on]).cumprod(dim=0)
            return leak + (1 - leak) * weights

    return weigh


def unsolved(logits: Tensor, labels: Tensor, threshold: float = 0.9) -> Tensor:
    """HardCGT's gate: 0 where the exit is right with at least this confidence, else 1."""
    confidence, answer = logits.softmax(dim=-1).max(dim=-1)
    return 1 - ((answer == labels) & (confidence >= threshold)).float()


def residual(logits: Tensor, labels: Tensor) -> Tensor:
    """SoftCGT's gate: `1 - p(y)`, the probability the exit does not give the true class."""
    return 1 - true_class_probability(logits, labels)


def steep_residual(logits: Tensor, labels: Tensor, threshold: float = 0.9, steepness: float = 20.0) -> Tensor:
    """SoftCGT's gate as its authors coded it: `1 - sigmoid(steepness * (p(y) - threshold))`.

    Their steepness of 1 does not gate: it passes 0.71 of an unsolved sample on and 0.48 of a solved one. With 20 it
    is 1.00 and 0.12.
    """
    return 1 - torch.sigmoid(steepness * (true_class_probability(logits, labels) - threshold))


def true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability each sample's true class is given, shape (batch,)."""
    return logits.softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


REGIMES: dict[str, tuple[Phase, ...]] = {
    "joint": (Phase(every_exit),),
    "disjoint": (Phase(last_exit, 0.5, "last"), Phase(early_exits, 0.5, "early")),
    "mixed": (Phase(last_exit, 0.5, "last"), Phase(every_exit, 0.5)),
    "sdn": (Phase(shallow_deep),),
    "hard-cgt": (Phase(confidence_gated(unsolved, warm_up=0.25, leak=0.1)),),
    "soft-cgt": (Phase(confidence_gated(residual, warm_up=0.25, leak=0.5)),),
    "soft-cgt-steep": (Phase(confidence_gated(steep_residual, warm_up=0.25, leak=0.1)),),
    "hard-cgt-plain": (Phase(confidence_gated(unsolved)),),
    "soft-cgt-plain": (Phase(confidence_gated(residual)),),
}
"""The `-plain` ones are the papers' formulas as they stand."""
