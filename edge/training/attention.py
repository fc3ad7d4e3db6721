"""Explanation-Guided Training (arXiv 2601.08891): early exits must look where the final exit looks."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def attention_consistency_loss(maps: Sequence[Tensor]) -> Tensor:
    """Return how far the early exits' attention maps point away from the final one's, 0 for the same direction.

    `mean_{k<K} (1 - cos(resize(A_k), stopgrad(A_K)))`. The gradient stops at the final map: without that it drifts
    towards the shallow ones.

    Args:
        maps: One map an exit, shape (batch, 1, height, width); sizes may differ, early maps are resized.
    """
    final = maps[-1].detach()
    losses = []
    for early in maps[:-1]:
        resized = F.interpolate(early, size=final.shape[-2:], mode="bilinear", align_corners=False)
        losses.append(1 - F.cosine_similarity(resized.flatten(1), final.flatten(1), dim=1).mean())
    return sum(losses, start=final.new_zeros(())) / max(len(losses), 1)
