"""Random shifts and mirroring of training images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SHIFT = 2
"""Largest shift in pixels per 32 pixels of image size."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random transforms that keep the class of an image, drawn for each sample."""

    shift: bool
    mirror: bool

    def __call__(self, images: Tensor) -> Tensor:
        """Return augmented images of the same shape, on the same device.

        Random numbers come from torch's global CPU generator.
        """
        if self.shift:
            images = random_shift(images)
        if self.mirror:
            images = random_mirror(images)
        return images


def random_shift(images: Tensor) -> Tensor:
    """Shift each image by a random number of pixels; uncovered edges get the image's lowest value."""
    samples, _, height, width = images.shape
    max_shift = max(1, MAX_SHIFT * min(height, width) // 32)
    lowest = images.amin(dim=(1, 2, 3), keepdim=True)
    padded = F.pad(images - lowest, (max_shift,) * 4)
    top, left = torch.randint(0, 2 * max_shift + 1, (2, samples, 1)).to(images.device)
    rows = (top + torch.arange(height, device=images.device))[:, :, None]
    columns = (left + torch.arange(width, device=images.device))[:, None, :]
    sample = torch.arange(samples, device=images.device)[:, None, None]
    return padded[sample, :, rows, columns].permute(0, 3, 1, 2) + lowest


def random_mirror(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    is_mirrored = torch.rand(len(images), 1, 1, 1).to(images.device) < 0.5
    return torch.where(is_mirrored, images.flip(-1), images)
