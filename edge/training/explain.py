"""How well early exits' attention maps agree with the final one's, and whether the maps say what the answer rests on.

Maps are compared at the final one's size, flattened: shape (exits, samples, pixels).
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edge.training.network import MultiExitNetwork

Maps = NDArray[np.floating]
STEPS = 10
"""Into how many parts an image is taken apart for a faithfulness curve."""


@dataclass(frozen=True, slots=True)
class Consistency:
    """Agreement of early maps with the final one, a mean over samples for each early exit.

    `raw` alone proves little: maps are never negative, so that any two of them are near. Two uniform maps have a raw
    cosine of 1, no centred one, and an entropy of 1. `shuffled` is the centred cosine with the final map of *another*
    sample: what is left of `centred` above it is what depends on the image.
    """

    raw: tuple[float, ...]
    centred: tuple[float, ...]
    shuffled: tuple[float, ...]
    entropy: tuple[float, ...]
    """Of every exit's map, the last included, as a share of a uniform map's."""


def consistency(maps: Maps, seed: int = 0) -> Consistency:
    """Return how early maps agree with the final one."""
    exact = maps.astype(np.float64)  # so that a uniform map less its mean is 0, not a direction of rounding errors
    *early, final = exact
    others = np.roll(np.random.default_rng(seed).permutation(len(final)), 1)
    partner = np.empty(len(final), dtype=np.intp)
    partner[np.roll(others, -1)] = others  # along one cycle, so that none is its own partner
    return Consistency(
        raw=tuple(_mean_cosine(one, final) for one in early),
        centred=tuple(_mean_cosine(_centred(one), _centred(final)) for one in early),
        shuffled=tuple(_mean_cosine(_centred(one), _centred(final)[partner]) for one in early),
        entropy=tuple(_mean_entropy(one) for one in exact),
    )


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Mean confidence in an exit's own answer while pixels go or come, most attended ones first, for each exit.

    A map that shows what the answer rests on has a low `deletion` and a high `insertion` (Petsiuk et al. 2018).
    """

    deletion: tuple[float, ...]
    insertion: tuple[float, ...]


@torch.no_grad()
def faithfulness(network: MultiExitNetwork, images: Tensor) -> Faithfulness:
    """Return the areas under the deletion and the insertion curve of every exit.

    Args:
        network: In evaluation mode.
        images: Network input, shape (samples, channels, height, width); removed pixels become 0, the mean of the
            training images.
    """
    network.eval()
    outputs = network(images)
    deletion, insertion = [], []
    for index, one in enumerate(outputs):
        answer = one.logits.argmax(dim=-1)
        attended = F.interpolate(one.attention, size=images.shape[-2:], mode="bilinear", align_corners=False)
        rank = attended.flatten(1).argsort(dim=1, descending=True).argsort(dim=1).reshape(attended.shape)
        pixels = attended[0].numel()
        kept, shown = [], []
        for step in range(STEPS + 1):
            first = rank < pixels * step // STEPS
            kept.append(_confidence_in(network, images * ~first, index, answer))
            shown.append(_confidence_in(network, images * first, index, answer))
        deletion.append(_area(kept))
        insertion.append(_area(shown))
    return Faithfulness(tuple(deletion), tuple(insertion))


def _confidence_in(network: MultiExitNetwork, images: Tensor, exit_index: int, answer: Tensor) -> float:
    probability = network(images)[exit_index].logits.float().softmax(dim=-1)
    return float(probability.gather(1, answer.unsqueeze(1)).mean())


def _area(curve: list[float]) -> float:
    return float(np.mean([(left + right) / 2 for left, right in itertools.pairwise(curve)]))


def _mean_cosine(one: Maps, other: Maps) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())


def _centred(maps: Maps) -> Maps:
    centred: Maps = maps - maps.mean(axis=1, keepdims=True)
    return centred


def _mean_entropy(maps: Maps) -> float:
    """Return the mean entropy of maps scaled to a sum of 1, as a share of a uniform map's; one pixel has all of it."""
    if maps.shape[1] == 1:
        return 1.0
    share = maps / np.maximum(maps.sum(axis=1, keepdims=True), 1e-12)
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(axis=1)
    return float((entropy / np.log(maps.shape[1])).mean())
