"""Random transforms of training images that keep their class, drawn for each sample of a batch.

Every transform maps a batch of normalised images, shape (batch, channels, height, width), to a new batch of the same
shape on the same device. Random numbers come from torch's global CPU generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edge.bundle.manifest import InputSpec
from edge.errors import DataError
from edge.training.randaugment import RandAugment

MAX_SHIFT = 2
"""Largest shift in pixels per 32 pixels of image size."""
MIN_CROP = 0.8
"""Smallest height and width of a crop, as shares of the image's."""
COLOUR_RANGE = 0.2
"""Largest relative change of contrast, and change of brightness in standard deviations of the training images."""

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A sequence of transforms."""

    transforms: tuple[Transform, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Return augmented images."""
        for transform in self.transforms:
            images = transform(images)
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


def random_crop(images: Tensor) -> Tensor:
    """Crop each image to 0.8 to 1 of its width and, independently, of its height, and resize the crop bilinearly."""
    size = _uniform(MIN_CROP, 1, (len(images), 2))
    centre = (1 - size) * _uniform(-1, 1, (len(images), 2))
    affine = torch.cat([torch.diag_embed(size), centre.unsqueeze(-1)], dim=-1).to(images)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def random_mirror(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    return torch.where(_bernoulli(images), images.flip(-1), images)


def random_flip(images: Tensor) -> Tensor:
    """Flip each image upside down with probability 1/2."""
    return torch.where(_bernoulli(images), images.flip(-2), images)


def random_colour(images: Tensor) -> Tensor:
    """Change the contrast of each image and the brightness of each of its channels."""
    contrast = _uniform(1 - COLOUR_RANGE, 1 + COLOUR_RANGE, (len(images), 1, 1, 1)).to(images)
    brightness = _uniform(-COLOUR_RANGE, COLOUR_RANGE, (*images.shape[:2], 1, 1)).to(images)
    return images * contrast + brightness


TRANSFORMS: dict[str, Callable[[InputSpec], Transform]] = {
    "shift": lambda _: random_shift,
    "crop": lambda _: random_crop,
    "mirror": lambda _: random_mirror,
    "flip": lambda _: random_flip,
    "colour": lambda _: random_colour,
    "randaugment": RandAugment,
}
"""Transforms by name; each is made for the network's input."""
FOR_ARRAYS = {"mirror", "flip"}
"""Transforms that keep the central pixel, to which the label of an array may belong."""


def augmentation_for(names: Sequence[str], spec: InputSpec) -> Augmentation:
    """Return the transforms of these names, for a network's input.

    Raises:
        DataError: a transform does not exist, or does not suit arrays.
    """
    for name in names:
        if name not in TRANSFORMS:
            raise DataError(f"unknown augmentation {name!r}; the augmentations are {', '.join(TRANSFORMS)}")
        if spec.kind == "array" and name not in FOR_ARRAYS:
            raise DataError(
                f"the augmentation {name!r} is for images; inputs of this dataset are arrays, which allow "
                f"{' and '.join(sorted(FOR_ARRAYS))}"
            )
    return Augmentation(tuple(TRANSFORMS[name](spec) for name in names))


def _bernoulli(images: Tensor) -> Tensor:
    return torch.rand(len(images), 1, 1, 1).to(images.device) < 0.5


def _uniform(low: float, high: float, shape: tuple[int, ...]) -> Tensor:
    return low + (high - low) * torch.rand(shape)
