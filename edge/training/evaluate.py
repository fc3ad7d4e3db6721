"""Logits and attention maps of every exit over a set of samples."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.training.attention import flatten_maps
from edge.training.network import MultiExitNetwork


class Evaluation(NamedTuple):
    """Network outputs for a set of samples.

    Attributes:
        logits: Shape (exits, samples, classes).
        maps: Attention maps, early ones resized to the size of the final one, shape (exits, samples, pixels).
        labels: True classes, shape (samples,).
    """

    logits: NDArray[np.float32]
    maps: NDArray[np.float32]
    labels: NDArray[np.int64]


@torch.no_grad()
def evaluate(network: MultiExitNetwork, loader: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Run the network on batches of images and labels, and leave it in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    logits, maps, labels = [], [], []
    for images, batch_labels in loader:
        outputs = network(images.to(device))
        logits.append(torch.stack([output.logits.float() for output in outputs]).cpu())
        maps.append(torch.stack(flatten_maps([output.attention.float() for output in outputs])).cpu())
        labels.append(batch_labels)
    return Evaluation(torch.cat(logits, dim=1).numpy(), torch.cat(maps, dim=1).numpy(), torch.cat(labels).numpy())


def logits_of(
    network: MultiExitNetwork, loader: Iterable[tuple[Tensor, Tensor]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits, shape (exits, samples, classes), and labels, shape (samples,)."""
    evaluation = evaluate(network, loader)
    return evaluation.logits, evaluation.labels


def accuracies(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> list[float]:
    """Return each exit's accuracy on all samples."""
    return [float((exit_logits.argmax(axis=-1) == labels).mean()) for exit_logits in logits]
