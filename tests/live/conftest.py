"""A classifier, and digits in random order with noise."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from edge.bundle.bundle import Bundle
from edge.frames.base import frame_from_array
from edge.inference.record import record


@pytest.fixture(scope="module")
def classifier(digits_bundle: Bundle) -> Iterator[edge.Classifier]:
    """Return a classifier with thresholds with which every exit answers some of the reference samples."""
    with edge.load(digits_bundle.path, backend="onnxruntime", precision="fp32") as classifier:
        frames = [frame_from_array(pixels, "image") for pixels in digits_bundle.reference().frames]
        classifier.thresholds = np.quantile(record(classifier, frames).scores.confidence[:-1], 0.6, axis=1)
        yield classifier


@pytest.fixture(scope="module")
def digits(digits_bundle: Bundle) -> NDArray[np.uint8]:
    """Return 300 gray images of digits in random order, each with noise of its own."""
    generator = np.random.default_rng(0)
    frames = digits_bundle.reference().frames
    selected = frames[generator.integers(0, len(frames), 300)].astype(np.int16)
    return np.clip(selected + generator.integers(-40, 41, selected.shape), 0, 255).astype(np.uint8)
