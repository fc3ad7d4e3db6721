"""Explanation-Guided Training (arXiv 2601.08891): early exits must look where the final exit looks.

Every loss takes one attention map an exit, shape (batch, 1, height, width), resizes early maps to the final one's
size, and stops the gradient at the final map: without that it drifts towards the shallow ones.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

NO_CONTRAST = 1e-3
"""Standard deviation of a map below which it is taken for uniform."""
GUARD = 0.1

AttentionLoss = Callable[[Sequence[Tensor]], Tensor]


def cosine_loss(maps: Sequence[Tensor]) -> Tensor:
    """Return `mean_{k<K} (1 - cos(A_k, stopgrad(A_K)))`: 0 for maps of one direction, the paper's loss.

    Maps are never negative, so even unlike ones are near: two uniform maps agree fully, whatever they should show.
    """
    return _mean_over_early(maps, lambda early, final: 1 - F.cosine_similarity(early, final, dim=1).mean())


def guarded_cosine_loss(maps: Sequence[Tensor]) -> Tensor:
    """Return `cosine_loss` and 0.1 times what early maps lack of the final one's contrast, 1 for a uniform map.

    Contrast is the standard deviation over positions, `mean_{k<K} relu(1 - std(A_k) / std(stopgrad(A_K)))`: an early
    map cannot come near the final one by opening everywhere.
    """

    def distance(early: Tensor, final: Tensor) -> Tensor:
        cosine = F.cosine_similarity(early, final, dim=1).mean()
        lack = F.relu(1 - early.std(dim=1) / final.std(dim=1).clamp_min(NO_CONTRAST)).mean()
        return 1 - cosine + GUARD * lack

    return _mean_over_early(maps, distance)


def divergence_loss(maps: Sequence[Tensor]) -> Tensor:
    """Return `mean_{k<K} KL(stopgrad(A_K) || A_k)`, each map scaled to a sum of 1."""

    def distance(early: Tensor, final: Tensor) -> Tensor:
        return F.kl_div(_distribution(early).log(), _distribution(final), reduction="batchmean")

    return _mean_over_early(maps, distance)


ATTENTION_LOSSES: dict[str, AttentionLoss] = {
    "cosine": cosine_loss,
    "guarded-cosine": guarded_cosine_loss,
    "divergence": divergence_loss,
}


def flat_maps(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return every map at the final one's size, flattened to (batch, pixels)."""
    size = maps[-1].shape[-2:]
    return [F.interpolate(one, size=size, mode="bilinear", align_corners=False).flatten(1) for one in maps]


def _mean_over_early(maps: Sequence[Tensor], distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    *early, final = flat_maps(maps)
    losses = [distance(one, final.detach()) for one in early]
    return sum(losses, start=final.new_zeros(())) / max(len(losses), 1)


def _distribution(maps: Tensor) -> Tensor:
    return (maps + 1e-6) / (maps + 1e-6).sum(dim=1, keepdim=True)
