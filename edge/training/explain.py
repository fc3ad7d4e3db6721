"""Metrics of attention maps: consistency of early exits with the final one, and faithfulness to the prediction.

Maps are compared at the size of the final one, flattened: shape (exits, samples, pixels).
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edge.training.network import ExitOutputs, MultiExitNetwork

Maps = NDArray[np.floating]
STEPS = 10
"""Steps of a deletion or insertion curve."""


@dataclass(frozen=True, slots=True)
class Consistency:
    """Cosine similarity of each early exit's maps with the final exit's, as a mean over samples.

    `raw` alone proves little: maps are non-negative, so any two have a high cosine. Two uniform maps have a raw cosine
    of 1, a centred cosine of 0 and an entropy of 1. `shuffled` is the centred cosine with the final map of *another*
    sample: the difference `centred - shuffled` is the part that depends on the image.
    """

    raw: tuple[float, ...]
    centred: tuple[float, ...]
    shuffled: tuple[float, ...]
    entropy: tuple[float, ...]
    """Entropy of every exit's maps, the final exit included, relative to a uniform map."""


def consistency(maps: Maps, seed: int = 0) -> Consistency:
    """Compare early maps with the final ones; `seed` chooses the samples that `shuffled` compares with."""
    exact = maps.astype(np.float64)  # in float32 a uniform map minus its mean is rounding noise, not 0
    *early_maps, final = exact
    partner = _random_partners(len(final), seed)
    return Consistency(
        raw=tuple(_mean_cosine(early, final) for early in early_maps),
        centred=tuple(_mean_cosine(_centred(early), _centred(final)) for early in early_maps),
        shuffled=tuple(_mean_cosine(_centred(early), _centred(final)[partner]) for early in early_maps),
        entropy=tuple(_mean_entropy(exit_maps) for exit_maps in exact),
    )


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Areas under each exit's deletion and insertion curves (Petsiuk et al. 2018).

    A curve is the mean confidence in the exit's own prediction while pixels are removed from, or added to, an empty
    image, most attended first. A faithful map has a low `deletion` and a high `insertion`.
    """

    deletion: tuple[float, ...]
    insertion: tuple[float, ...]


@torch.no_grad()
def faithfulness(network: MultiExitNetwork, images: Tensor) -> Faithfulness:
    """Return the areas under the deletion and the insertion curve of every exit. Leaves the network in evaluation mode.

    Args:
        network: The network to explain.
        images: Network input, shape (samples, channels, height, width); removed pixels become 0, the mean of the
            training images.
    """
    network.eval()
    areas = [_curve_areas(network, images, exit_index, output) for exit_index, output in enumerate(network(images))]
    deletion, insertion = zip(*areas, strict=True)
    return Faithfulness(deletion, insertion)


def _curve_areas(
    network: MultiExitNetwork, images: Tensor, exit_index: int, output: ExitOutputs
) -> tuple[float, float]:
    """Return the areas under one exit's deletion and insertion curves, given its output for the unmodified images."""
    predicted = output.logits.argmax(dim=-1)
    resized = F.interpolate(output.attention, size=images.shape[-2:], mode="bilinear", align_corners=False)
    rank = resized.flatten(1).argsort(dim=1, descending=True).argsort(dim=1).reshape(resized.shape)
    pixels = resized[0].numel()
    deletion, insertion = [], []
    for step in range(STEPS + 1):
        most_attended = rank < pixels * step // STEPS
        deletion.append(_confidence_in(network, images * ~most_attended, exit_index, predicted))
        insertion.append(_confidence_in(network, images * most_attended, exit_index, predicted))
    return _area(deletion), _area(insertion)


def _confidence_in(network: MultiExitNetwork, images: Tensor, exit_index: int, predicted: Tensor) -> float:
    softmax = network(images)[exit_index].logits.float().softmax(dim=-1)
    return float(softmax.gather(1, predicted.unsqueeze(1)).mean())


def _area(curve: list[float]) -> float:
    return float(np.mean([(left + right) / 2 for left, right in itertools.pairwise(curve)]))


def _random_partners(samples: int, seed: int) -> NDArray[np.intp]:
    """Return another sample's index for each sample: the next one along a random cycle through all of them."""
    following = np.roll(np.random.default_rng(seed).permutation(samples), 1)
    partner = np.empty(samples, dtype=np.intp)
    partner[np.roll(following, -1)] = following
    return partner


def _mean_cosine(maps: Maps, others: Maps) -> float:
    lengths = np.linalg.norm(maps, axis=1) * np.linalg.norm(others, axis=1)
    return float(((maps * others).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())


def _centred(maps: Maps) -> Maps:
    centred: Maps = maps - maps.mean(axis=1, keepdims=True)
    return centred


def _mean_entropy(maps: Maps) -> float:
    """Return the mean entropy of maps scaled to a sum of 1, relative to a uniform map; 1 for maps of one pixel."""
    if maps.shape[1] == 1:
        return 1.0
    share = maps / np.maximum(maps.sum(axis=1, keepdims=True), 1e-12)
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(axis=1)
    return float((entropy / np.log(maps.shape[1])).mean())
