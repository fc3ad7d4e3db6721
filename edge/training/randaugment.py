"""RandAugment (Cubuk et al., arXiv 1909.13719) through timm."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edge.bundle.manifest import InputSpec
from edge.training.backbones.timm import import_timm

POLICY = "rand-m9-n2-mstd0.5-inc1"
"""timm's notation: two operations per image, of magnitude 9 of 10 with a standard deviation of 0.5."""


class RandAugment:
    """Applies two random operations to each image, such as rotation, shear, contrast or posterisation."""

    def __init__(self, spec: InputSpec) -> None:
        """Create the operations for 8-bit images of this input.

        Raises:
            CheckpointError: timm is not installed.
        """
        import_timm()
        from timm.data.auto_augment import rand_augment_transform

        mean = tuple(round(255 * value) for value in spec.mean)
        self._transform = rand_augment_transform(POLICY, {"img_mean": mean if len(mean) > 1 else mean[0]})
        self._mean = np.array(spec.mean, dtype=np.float32)
        self._std = np.array(spec.std, dtype=np.float32)

    def __call__(self, images: Tensor) -> Tensor:
        """Return augmented images; values are rounded to 8 bits on the way."""
        with _seeded(int(torch.randint(2**31, ()))):
            return self._augmented(images)

    def _augmented(self, images: Tensor) -> Tensor:
        pixels = (images.permute(0, 2, 3, 1).cpu().numpy() * self._std + self._mean) * 255
        augmented = np.stack([self._augment(image) for image in np.rint(pixels).clip(0, 255).astype(np.uint8)])
        normalised = (augmented.astype(np.float32) / 255 - self._mean) / self._std
        return torch.from_numpy(normalised).permute(0, 3, 1, 2).to(images)

    def _augment(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Augment one image, shape (height, width, channels)."""
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return np.asarray(self._transform(image), dtype=np.uint8).reshape(pixels.shape)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that timm draws from, and restore them at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
