"""Letters in the style of the digits: objects that a network for digits does not know."""

import string

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.training.datasets.cluttered_digits import EASINESS, NOISE, Composer, Pixels, enlarged

FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX)
VARIANTS = 10
"""Drawings of each letter in each font."""
BITMAP, DIGIT_PIXELS = 32, 8
CANVAS, BASELINE, FONT_SCALE = 96, 66, 1.6
THICKNESS, MAX_ROTATION_DEGREES, MAX_SHEAR = (4, 7), 12.0, 0.2
SEED = 26


def letter_frames(size: int, *, is_cluttered: bool) -> NDArray[np.uint8]:
    """Return frames of every capital letter, shape (frames, size, size).

    Args:
        size: Height and width of the frames.
        is_cluttered: Compose the frames as those of the dataset cluttered-digits, among fragments of letters, instead
            of as those of digits.
    """
    generator = np.random.default_rng(SEED)
    letters = np.stack(
        [draw_letter(name, font, generator) for name in string.ascii_uppercase for font in FONTS * VARIANTS]
    )
    if not is_cluttered:
        return np.stack([enlarged(letter, size) for letter in letters]).astype(np.uint8)
    composer = Composer(letters, size, EASINESS, NOISE, generator)
    return np.stack([composer.compose(index) for index in range(len(letters))])


def draw_letter(name: str, font: int, generator: np.random.Generator) -> Pixels:
    """Return a letter as gray levels from 0 to 255, shape (8, 8).

    As the digits were made (Alpaydin and Kaynak 1998): a bitmap of 32 x 32 pixels that the letter fills, of which each
    4 x 4 pixels are counted.
    """
    canvas = np.zeros((CANVAS, CANVAS), dtype=np.uint8)
    thickness = int(generator.integers(*THICKNESS, endpoint=True))
    cv2.putText(canvas, name, (BASELINE // 2, BASELINE), font, FONT_SCALE, 255, thickness)
    rotation = np.radians(generator.uniform(-MAX_ROTATION_DEGREES, MAX_ROTATION_DEGREES))
    cosine, sine = np.cos(rotation), np.sin(rotation)
    linear = np.array([[cosine, -sine + generator.uniform(-MAX_SHEAR, MAX_SHEAR)], [sine, cosine]])
    centre = np.full(2, CANVAS / 2)
    transform = np.column_stack([linear, centre - linear @ centre])
    left, top, width, height = cv2.boundingRect(drawn := cv2.warpAffine(canvas, transform, (CANVAS, CANVAS)))
    side = max(width, height)
    square = np.zeros((side, side), dtype=np.uint8)
    row, column = (side - height) // 2, (side - width) // 2
    square[row : row + height, column : column + width] = drawn[top : top + height, left : left + width]
    bitmap = cv2.resize(square, (BITMAP, BITMAP), interpolation=cv2.INTER_AREA)
    return cv2.resize(bitmap, (DIGIT_PIXELS, DIGIT_PIXELS), interpolation=cv2.INTER_AREA).astype(np.float32)
