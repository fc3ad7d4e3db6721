"""What a network says of samples, at every exit, and where it looks."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.training.attention import flat_maps
from edge.training.network import MultiExitNetwork


class Answers(NamedTuple):
    """What a network says of samples.

    Attributes:
        logits: Shape (exits, samples, classes).
        maps: Attention maps, early ones resized to the final one's size, shape (exits, samples, pixels).
        labels: The true classes, shape (samples,).
    """

    logits: NDArray[np.float32]
    maps: NDArray[np.float32]
    labels: NDArray[np.int64]


@torch.no_grad()
def answers_of(network: MultiExitNetwork, loader: Iterable[tuple[Tensor, Tensor]]) -> Answers:
    """Return what the network says of every sample."""
    network.eval()
    device = next(network.parameters()).device
    logits, maps, labels = [], [], []
    for images, truth in loader:
        outputs = network(images.to(device))
        logits.append(torch.stack([one.logits.float() for one in outputs]).cpu())
        maps.append(torch.stack(flat_maps([one.attention.float() for one in outputs])).cpu())
        labels.append(truth)
    return Answers(torch.cat(logits, dim=1).numpy(), torch.cat(maps, dim=1).numpy(), torch.cat(labels).numpy())


def logits_of(
    network: MultiExitNetwork, loader: Iterable[tuple[Tensor, Tensor]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits, shape (exits, samples, classes), and labels, shape (samples,)."""
    answers = answers_of(network, loader)
    return answers.logits, answers.labels


def accuracies(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> list[float]:
    """Return each exit's share of right answers, were it to answer every sample."""
    return [float((exit_logits.argmax(axis=-1) == labels).mean()) for exit_logits in logits]
