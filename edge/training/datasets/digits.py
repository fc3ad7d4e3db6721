"""Handwritten digits of scikit-learn: 1,797 real images that are part of the package."""

from pathlib import Path

import cv2
import numpy as np

from edge.training.datasets.base import LabelledImages, content_digests

SIZE = 32


def load(path: Path | None, image_size: int | None) -> LabelledImages:
    """Return the digits, resized from 8x8 to 32x32 (or `image_size`) pixels in gray; `path` is ignored."""
    from sklearn.datasets import load_digits

    size = SIZE if image_size is None else image_size
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    frames = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in images])
    return LabelledImages(
        name="digits",
        frames=frames,
        labels=digits.target.astype(np.int64),
        classes=tuple(str(digit) for digit in range(10)),
        kind="image",
        colour="gray",
        size=(1, size, size),
        digests=content_digests(frames),
        augment=("shift",),
    )
