"""Losses of Explanation-Guided Training (arXiv 2601.08891): early exits learn to attend where the final exit attends.

Every loss takes one attention map per exit, shape (batch, 1, height, width), resizes early maps to the size of the
final one, and stops the gradient at the final map: without that, the final map drifts towards the early ones.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

MIN_CONTRAST = 1e-3
"""Smallest standard deviation to divide a contrast by; a map below it counts as uniform."""
CONTRAST_PENALTY = 0.1
"""Weight of the contrast term in `guarded_cosine_loss`."""

AttentionLoss = Callable[[Sequence[Tensor]], Tensor]


def cosine_loss(maps: Sequence[Tensor]) -> Tensor:
    """Return `mean_{k<K} (1 - cos(A_k, stopgrad(A_K)))`, the loss of the paper.

    Maps are non-negative, so the cosine is high even for dissimilar maps, and 1 for any two uniform ones.
    """
    return _mean_over_early(maps, lambda early, final: 1 - F.cosine_similarity(early, final, dim=1).mean())


def guarded_cosine_loss(maps: Sequence[Tensor]) -> Tensor:
    """Return `cosine_loss` plus 0.1 times a penalty on early maps with less contrast than the final one.

    Contrast is the standard deviation over positions, and the penalty
    `mean_{k<K} relu(1 - std(A_k) / std(stopgrad(A_K)))`. It is 1 for a uniform early map, so that an early map cannot
    approach the final one by being high everywhere.
    """

    def distance(early: Tensor, final: Tensor) -> Tensor:
        cosine = F.cosine_similarity(early, final, dim=1).mean()
        missing_contrast = F.relu(1 - early.std(dim=1) / final.std(dim=1).clamp_min(MIN_CONTRAST)).mean()
        return 1 - cosine + CONTRAST_PENALTY * missing_contrast

    return _mean_over_early(maps, distance)


ATTENTION_LOSSES: dict[str, AttentionLoss] = {"cosine": cosine_loss, "guarded-cosine": guarded_cosine_loss}


def flatten_maps(maps: Sequence[Tensor]) -> list[Tensor]:
    """Resize every map to the size of the final one and flatten it to (batch, pixels)."""
    size = maps[-1].shape[-2:]
    return [F.interpolate(attention, size=size, mode="bilinear", align_corners=False).flatten(1) for attention in maps]


def _mean_over_early(maps: Sequence[Tensor], distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    *early_maps, final = flatten_maps(maps)
    losses = [distance(early, final.detach()) for early in early_maps]
    return sum(losses, start=final.new_zeros(())) / max(len(losses), 1)
