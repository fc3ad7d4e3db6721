"""What a network says of samples, at every exit."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.training.network import MultiExitNetwork


@torch.no_grad()
def logits_of(
    network: MultiExitNetwork, loader: Iterable[tuple[Tensor, Tensor]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits, shape (exits, samples, classes), and labels, shape (samples,)."""
    network.eval()
    logits, labels = [], []
    for images, truth in loader:
        on_device = images.to(next(network.parameters()).device)
        logits.append(torch.stack([outputs.logits.float() for outputs in network(on_device)]).cpu())
        labels.append(truth.cpu())
    return torch.cat(logits, dim=1).numpy(), torch.cat(labels).numpy()


def accuracies(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> list[float]:
    """Return each exit's share of right answers, were it to answer every sample."""
    return [float((exit_logits.argmax(axis=-1) == labels).mean()) for exit_logits in logits]
