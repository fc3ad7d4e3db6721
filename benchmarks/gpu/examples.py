"""Networks with random weights whose exits are taken in shares that are set: nothing is learned, all is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge.bundle.manifest import InputSpec
from edge.decision import scores_from_logits
from edge.frames.base import Frame
from edge.training.backbones import build_network
from edge.training.network import MultiExitNetwork

CHANNELS, CLASSES, IMAGES, PATCHES = 3, 10, 200, 4
SURE = 2.0
"""Standard deviation of logits over images: random weights alone answer all images alike."""


@dataclass(frozen=True, slots=True)
class Example:
    """A network, and images of which set shares leave at each exit."""

    network: MultiExitNetwork
    spec: InputSpec
    thresholds: tuple[float, ...]
    images: list[Frame]

    def frames(self, count: int) -> list[Frame]:
        """Return so many images, drawn again and again."""
        return [self.images[k] for k in np.random.default_rng(0).integers(0, len(self.images), count)]


def example(backbone: str, size: int, shares: Sequence[float], device: str) -> Example:
    """Return an example of `size` x `size` pixels, its network on the device; always the same."""
    images = random_images(IMAGES, size)
    network = random_network(backbone, images[:32], device)
    confidence = scores_from_logits(_logits(network, images, device)).confidence
    spec = InputSpec("array", None, CHANNELS, size, size, (0.0,) * CHANNELS, (1.0,) * CHANNELS)
    return Example(network, spec, thresholds_for(confidence, shares), list(images))


def random_images(count: int, size: int) -> NDArray[np.float32]:
    """Return patches of colour under noise, shape (count, channels, size, size)."""
    generator = np.random.default_rng(0)
    patches = generator.normal(size=(count, CHANNELS, PATCHES, PATCHES))
    noise = generator.normal(scale=0.5, size=(count, CHANNELS, size, size))
    return (np.kron(patches, np.ones((size // PATCHES,) * 2)) + noise).astype(np.float32)


def random_network(backbone: str, images: NDArray[np.float32], device: str) -> MultiExitNetwork:
    """Return a network that has seen these images: its features are normalised and its logits spread."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(backbone, CHANNELS, CLASSES).to(device)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average of all batches, which are one
    with torch.no_grad():
        network.train()(torch.from_numpy(images).to(device))
        for head, logits in zip(network.heads, _logits(network.eval(), images, device), strict=True):
            _spread(head.classify, torch.from_numpy(logits).to(device))
    return network


def _spread(classify: Any, logits: torch.Tensor) -> None:
    """Make the logits of a linear layer differ from image to image; given are those it has, (samples, classes)."""
    scale = SURE / logits.std(dim=0)
    classify.bias.sub_(logits.mean(dim=0)).mul_(scale)
    classify.weight.mul_(scale[:, None])


def thresholds_for(confidence: NDArray[np.float32], shares: Sequence[float]) -> tuple[float, ...]:
    """Return thresholds with which these shares of samples leave; `confidence` has shape (exits, samples)."""
    left, found = np.ones(confidence.shape[1], dtype=bool), []
    for k, share in enumerate(shares[:-1]):
        found.append(float(np.quantile(confidence[k, left], 1 - share / sum(shares[k:]))))
        left &= confidence[k] < found[-1]
    return tuple(found)


@torch.no_grad()
def _logits(network: MultiExitNetwork, images: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    """Return logits of shape (exits, samples, classes)."""
    batches = [network(batch.to(device)) for batch in torch.split(torch.from_numpy(images), 50)]
    return np.stack(
        [torch.cat([exit_.logits for exit_ in exits]).cpu().numpy() for exits in zip(*batches, strict=True)]
    )
