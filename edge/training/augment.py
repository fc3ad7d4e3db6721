"""What training does to a batch of images so that no two epochs show the same ones."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 2
"""Images are shifted by up to this many pixels for each 32 of their size."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Which changes leave an image of its class. Each sample draws its own."""

    shift: bool
    mirror: bool

    def __call__(self, images: Tensor) -> Tensor:
        """Return changed images, shape and device as given, drawn from torch's global generator for the CPU."""
        if self.shift:
            images = shifted(images)
        if self.mirror:
            images = mirrored(images)
        return images


def shifted(images: Tensor) -> Tensor:
    """Shift each image by a random number of pixels; what comes in at the edges is its darkest value."""
    samples, _, height, width = images.shape
    reach = max(1, SHIFT * min(height, width) // 32)
    darkest = images.amin(dim=(1, 2, 3), keepdim=True)
    padded = F.pad(images - darkest, (reach,) * 4)
    top, left = torch.randint(0, 2 * reach + 1, (2, samples, 1)).to(images.device)
    rows = (top + torch.arange(height, device=images.device))[:, :, None]
    columns = (left + torch.arange(width, device=images.device))[:, None, :]
    sample = torch.arange(samples, device=images.device)[:, None, None]
    return padded[sample, :, rows, columns].permute(0, 3, 1, 2) + darkest


def mirrored(images: Tensor) -> Tensor:
    """Mirror every other image, on average, left to right."""
    turned = torch.rand(len(images), 1, 1, 1).to(images.device) < 0.5
    return torch.where(turned, images.flip(-1), images)
