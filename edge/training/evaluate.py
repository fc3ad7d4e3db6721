"""Logits and attention maps of every exit over a set of samples."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.training.attention import flatten_maps
from edge.training.loading import Batch
from edge.training.network import ExitOutputs, MultiExitNetwork


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


def evaluate(network: MultiExitNetwork, loader: Iterable[Batch]) -> Evaluation:
    """Run the network on batches of images and labels, and leave it in evaluation mode."""
    logits, maps, labels = [], [], []
    for outputs, batch_labels in _outputs_of(network, loader):
        logits.append(_stacked_logits(outputs))
        maps.append(torch.stack(flatten_maps([output.attention.float() for output in outputs])).cpu())
        labels.append(batch_labels)
    return Evaluation(torch.cat(logits, dim=1).numpy(), torch.cat(maps, dim=1).numpy(), torch.cat(labels).numpy())


def logits_of(network: MultiExitNetwork, loader: Iterable[Batch]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits, shape (exits, samples, classes), and labels, shape (samples,), as `evaluate` does."""
    batches = [(_stacked_logits(outputs), labels) for outputs, labels in _outputs_of(network, loader)]
    logits, labels = zip(*batches, strict=True)
    return torch.cat(logits, dim=1).numpy(), torch.cat(labels).numpy()


def accuracies(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> list[float]:
    """Return each exit's accuracy on all samples."""
    return [float((exit_logits.argmax(axis=-1) == labels).mean()) for exit_logits in logits]


@torch.no_grad()
def _outputs_of(network: MultiExitNetwork, loader: Iterable[Batch]) -> Iterator[tuple[list[ExitOutputs], Tensor]]:
    """Yield the outputs of every exit and the labels, a batch at a time."""
    network.eval()
    device = next(network.parameters()).device
    for images, labels in loader:
        yield network(images.to(device)), labels


def _stacked_logits(outputs: Sequence[ExitOutputs]) -> Tensor:
    return torch.stack([output.logits.float() for output in outputs]).cpu()
