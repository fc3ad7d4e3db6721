"""Training regimes: how much each exit's loss counts for each sample.

A regime takes the logits of all exits, shape (exits, batch, classes), and the labels, shape (batch,), and returns
weights, shape (exits, batch), through which no gradient flows.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Regime = Callable[[Tensor, Tensor], Tensor]


def joint(logits: Tensor, labels: Tensor) -> Tensor:
    """Every exit counts fully for every sample: the plain sum of losses."""
    return torch.ones(logits.shape[:2], device=logits.device)


def soft_cgt(logits: Tensor, labels: Tensor, leak: float = 0.3) -> Tensor:
    """Confidence-Gated Training, soft form (arXiv 2509.17885): deeper exits count where earlier ones fail.

    `gate_e = prod_{k<e} (1 - p_k(y))` with p_k(y) the probability exit k gives the true class, and
    `weight_e = leak + (1 - leak) * gate_e`, so that the weight of exit 0 is 1. The leak is ours: without it the
    deep exits starve as soon as the first exit fits the training set.
    """
    with torch.no_grad():
        probability = logits.softmax(dim=-1)
        true_class = probability.gather(-1, labels.expand(len(logits), -1).unsqueeze(-1)).squeeze(-1)
        failed = torch.cat([torch.ones_like(true_class[:1]), 1 - true_class[:-1]])
        return leak + (1 - leak) * failed.cumprod(dim=0)


REGIMES: dict[str, Regime] = {"joint": joint, "soft-cgt": soft_cgt}
