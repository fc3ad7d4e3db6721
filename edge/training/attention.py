"""Explanation-Guided Training (arXiv 2601.08891): early exits must look where the final exit looks.

Every loss takes one attention map an exit, shape (batch, 1, height, width), resizes early maps to the final one's
size, and stops the gradient at the final map: without that it drifts towards the shallow ones.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

NO_CONTRAST = 1e-3
"""Length of a centred map below which it is taken for uniform, and its direction for rounding."""

AttentionLoss = Callable[[Sequence[Tensor]], Tensor]


def cosine_loss(maps: Sequence[Tensor]) -> Tensor:
    """Return `mean_{k<K} (1 - cos(A_k, stopgrad(A_K)))`: 0 for maps of one direction, the paper's loss.

    Maps are never negative, so even unlike ones are near: two uniform maps agree fully, whatever they should show.
    """
    return _mean_over_early(maps, lambda early, final: 1 - F.cosine_similarity(early, final, dim=1).mean())


def centred_cosine_loss(maps: Sequence[Tensor]) -> Tensor:
    """Return the mean of `cosine_loss` and of the same with each map's mean taken away.

    The second half is what uniform maps cannot satisfy: a map without contrast has no direction.
    """

    def distance(early: Tensor, final: Tensor) -> Tensor:
        raw = F.cosine_similarity(early, final, dim=1)
        centred = F.cosine_similarity(_centred(early), _centred(final), dim=1, eps=NO_CONTRAST)
        return 1 - (raw + centred).mean() / 2

    return _mean_over_early(maps, distance)


def divergence_loss(maps: Sequence[Tensor]) -> Tensor:
    """Return `mean_{k<K} KL(stopgrad(A_K) || A_k)`, each map scaled to a sum of 1."""

    def distance(early: Tensor, final: Tensor) -> Tensor:
        return F.kl_div(_distribution(early).log(), _distribution(final), reduction="batchmean")

    return _mean_over_early(maps, distance)


ATTENTION_LOSSES: dict[str, AttentionLoss] = {
    "cosine": cosine_loss,
    "centred-cosine": centred_cosine_loss,
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


def _centred(maps: Tensor) -> Tensor:
    return maps - maps.mean(dim=1, keepdim=True)


def _distribution(maps: Tensor) -> Tensor:
    return (maps + 1e-6) / (maps + 1e-6).sum(dim=1, keepdim=True)
