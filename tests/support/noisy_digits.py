"""Digits in random order with noise, and thresholds at which every exit answers some of them."""

import numpy as np
from numpy.typing import NDArray

import edge
from edge.bundle.bundle import Bundle
from edge.frames.base import frame_from_array
from edge.inference.record import record


def noisy_digits(bundle: Bundle, count: int) -> NDArray[np.uint8]:
    """Return gray images of the bundle's reference samples in random order, each with noise of its own."""
    generator = np.random.default_rng(0)
    frames = bundle.reference().frames
    selected = frames[generator.integers(0, len(frames), count)].astype(np.int16)
    return np.clip(selected + generator.integers(-40, 41, selected.shape), 0, 255).astype(np.uint8)


def set_mixed_thresholds(classifier: edge.Classifier, bundle: Bundle) -> None:
    """Set thresholds that 40 % of the reference samples reach at each early exit."""
    frames = [frame_from_array(pixels, "image") for pixels in bundle.reference().frames]
    classifier.thresholds = np.quantile(record(classifier, frames).scores.confidence[:-1], 0.6, axis=1)
