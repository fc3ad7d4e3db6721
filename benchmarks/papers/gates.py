"""Gates for the comparison only: that of the authors' code, on calibrated confidence, and by rank."""

import torch
from torch import Tensor

from edge.training.regimes import LossWeights, every_exit, residual, true_class_confidence

TEMPERATURES = torch.logspace(-1, 1, 41, base=4)
"""Candidates between 1/4 and 4."""


def steep_residual(logits: Tensor, labels: Tensor, threshold: float = 0.9, steepness: float = 20.0) -> Tensor:
    """Gate of SoftCGT in its authors' code: `1 - sigmoid(steepness * (p(y) - threshold))`.

    Their steepness of 1 hardly gates: the weight factor is 0.71 at `p(y)` = 0 and 0.48 at `p(y)` = 1. With 20, the
    factors are 1.00 and 0.12.
    """
    return 1 - torch.sigmoid(steepness * (true_class_confidence(logits, labels) - threshold))


def calibrated_residual(logits: Tensor, labels: Tensor) -> Tensor:
    """Gate of SoftCGT on calibrated confidence: `1 - p(y)` at the temperature of the lowest loss on this batch."""
    temperatures = TEMPERATURES.to(logits)
    scaled = (logits / temperatures[:, None, None]).log_softmax(dim=-1)
    losses = -scaled[:, torch.arange(len(labels)), labels].mean(dim=1)
    return residual(logits / temperatures[losses.argmin()], labels)


def budget_gated(kept: float, leak: float) -> LossWeights:
    """Return gating by rank: each exit passes on the share of samples on which it is least confident.

    A gate on confidence closes as the training images are learned, and deep exits starve. By rank, deeper exits learn
    from `kept`, `kept`², ... of each batch in full throughout, as a budget of computation will route them.

    Args:
        kept: Share of the samples that an exit passes on.
        leak: Weight of the other samples.
    """

    def loss_weights(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        weights = every_exit(logits, labels, progress)
        for index, exit_logits in enumerate(logits[:-1]):
            doubt = residual(exit_logits, labels) * (weights[index] == 1)  # samples that got here come first
            count = max(1, round(kept ** (index + 1) * len(labels)))
            weights[index + 1] = leak
            weights[index + 1, doubt.topk(count).indices] = 1
        return weights

    return loss_weights
