"""Cluttered digits: scikit-learn's handwritten digits among fragments of other digits, some frames harder than others.

In the tradition of Cluttered MNIST (Mnih et al. 2014, arXiv 1406.6247). Each frame shows one real digit, its class, in
front of fragments of other digits, at a place of its own. Its difficulty is drawn between 0 and 1: the harder, the
smaller and the fainter the digit, the more fragments, the more noise. As in front of a camera, most frames are easy;
training frames are harder and noisier than the frames of the other splits, which are all drawn alike.

A digit appears in several frames, but neither it nor a fragment of it in the frames of two splits.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.training.datasets.base import LabelledImages, content_digests

SIZE, MIN_SIZE = 32, 16
SEED = 2014
"""Of the frames, which are the same for every seed of training."""
SHARES = {"test": 0.15, "thresholds": 0.15, "calibration": 0.05, "validation": 0.05}
"""Share of each class's digits for each purpose; training gets the rest."""
FRAMES_PER_DIGIT = {"test": 12, "thresholds": 12, "calibration": 3, "validation": 2, "train": 4}

EASINESS, TRAINING_EASINESS = 2.5, 1.5
"""Difficulties are uniform numbers raised to this power: half of them are below 0.18, in training below 0.35."""
DIGIT_SIZE = (0.9, 0.45)
"""Size of the digit as a share of the frame's, from the easiest frame to the hardest."""
DIGIT_CONTRAST = (1.0, 0.8)
NOISE, TRAINING_NOISE = (0.0, 4.0), (30.0, 30.0)
"""Standard deviation in gray levels. More of it in training makes networks less sensitive to the rounding of int8."""
FRAGMENTS = (0, 8)
FRAGMENT_PIXELS = 5
"""Height and width of a fragment, of the 8 pixels of a digit."""
FRAGMENT_CONTRAST = (0.5, 1.0)
"""Drawn anew for each fragment, whatever the difficulty."""

Range = tuple[float, float]
Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Composer:
    """Composes frames from the digits of one split."""

    digits: Pixels
    """Gray levels from 0 to 255, shape (digits, 8, 8)."""
    size: int
    easiness: float
    noise: Range
    generator: np.random.Generator

    def compose(self, index: int) -> NDArray[np.uint8]:
        """Return a frame of one digit at a random difficulty, shape (size, size)."""
        difficulty = self.generator.random() ** self.easiness
        canvas = np.zeros((self.size, self.size), dtype=np.float32)
        for _ in range(round(between(FRAGMENTS, difficulty) * self.generator.uniform(0.7, 1.0))):
            self._draw_fragment(canvas, difficulty)
        self._draw_digit(canvas, index, difficulty)
        noise = self.generator.standard_normal(canvas.shape, dtype=np.float32)
        return np.clip(canvas + noise * between(self.noise, difficulty), 0, 255).astype(np.uint8)

    def _draw_digit(self, canvas: Pixels, index: int, difficulty: float) -> None:
        side = round(self.size * between(DIGIT_SIZE, difficulty) * self.generator.uniform(0.9, 1.1))
        contrast = min(1.0, between(DIGIT_CONTRAST, difficulty) * self.generator.uniform(0.9, 1.1))
        draw(canvas, enlarged(self.digits[index], side) * contrast, self._place(side, overhang=0))

    def _draw_fragment(self, canvas: Pixels, difficulty: float) -> None:
        digit = self.digits[self.generator.integers(len(self.digits))]
        top, left = self.generator.integers(0, digit.shape[0] - FRAGMENT_PIXELS + 1, 2)
        fragment = digit[top : top + FRAGMENT_PIXELS, left : left + FRAGMENT_PIXELS]
        scale = self.size * between(DIGIT_SIZE, difficulty) * self.generator.uniform(0.8, 1.2) / digit.shape[0]
        side = max(3, round(FRAGMENT_PIXELS * scale))
        contrast = self.generator.uniform(*FRAGMENT_CONTRAST)
        draw(canvas, enlarged(fragment, side) * contrast, self._place(side, overhang=side // 2))

    def _place(self, side: int, overhang: int) -> tuple[int, int]:
        """Return the top left corner of a patch that leaves the frame by at most `overhang` pixels."""
        top, left = self.generator.integers(-overhang, self.size - side + overhang + 1, 2)
        return int(top), int(left)


def load(path: Path | None, image_size: int | None) -> LabelledImages:
    """Compose the frames, 32x32 (or `image_size`) pixels in gray; `path` is not needed.

    Raises:
        DataError: the image size is too small to tell digits apart.
    """
    from sklearn.datasets import load_digits

    size = SIZE if image_size is None else image_size
    if size < MIN_SIZE:
        raise DataError(f"cluttered digits of {size} pixels cannot be told apart; choose {MIN_SIZE} or more")
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.float32)
    generator = np.random.default_rng(SEED)
    frames: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    fixed_splits = {}
    for purpose, members in split_digits(digits.target, generator).items():
        easiness = TRAINING_EASINESS if purpose == "train" else EASINESS
        noise = TRAINING_NOISE if purpose == "train" else NOISE
        composer = Composer(images[members], size, easiness, noise, generator)
        first = len(frames)
        for index in generator.permutation(np.repeat(np.arange(len(members)), FRAMES_PER_DIGIT[purpose])):
            frames.append(composer.compose(index))
            labels.append(int(digits.target[members[index]]))
        fixed_splits[purpose] = np.arange(first, len(frames))
    del fixed_splits["train"]  # gets all the frames that belong to no other split
    stacked = np.stack(frames)
    return LabelledImages(
        name="cluttered-digits",
        frames=stacked,
        labels=np.array(labels, dtype=np.int64),
        classes=tuple(str(digit) for digit in range(10)),
        kind="image",
        colour="gray",
        size=(1, size, size),
        digests=content_digests(stacked),
        fixed_splits=fixed_splits,
        augment=("shift",),
    )


def split_digits(labels: NDArray[np.int64], generator: np.random.Generator) -> dict[str, NDArray[np.intp]]:
    """Share out the digits of each class among the splits; return the indices of each split's digits."""
    parts: dict[str, list[NDArray[np.intp]]] = {purpose: [] for purpose in FRAMES_PER_DIGIT}
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum([round(share * len(members)) for share in SHARES.values()])
        for purpose, part in zip((*SHARES, "train"), np.split(members, ends), strict=True):
            parts[purpose].append(part)
    return {purpose: np.concatenate(members) for purpose, members in parts.items()}


def between(ends: Range, position: float) -> float:
    """Interpolate between two values; `position` runs from 0 to 1."""
    return ends[0] + position * (ends[1] - ends[0])


def enlarged(image: Pixels, side: int) -> Pixels:
    """Return a square image at another size, in gray levels from 0 to 255."""
    resized = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(resized, 0, 255).astype(np.float32, copy=False)


def draw(canvas: Pixels, patch: Pixels, place: tuple[int, int]) -> None:
    """Draw a patch on a canvas where it is the brighter of the two; parts outside the canvas are cut off."""
    (top, left), side, size = place, len(patch), len(canvas)
    rows = slice(max(top, 0), min(top + side, size))
    columns = slice(max(left, 0), min(left + side, size))
    visible = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    np.maximum(canvas[rows, columns], visible, out=canvas[rows, columns])
