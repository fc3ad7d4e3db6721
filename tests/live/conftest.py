"""A classifier, and digits in random order with noise."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from edge.bundle.bundle import Bundle
from tests.support.noisy_digits import noisy_digits, set_mixed_thresholds


@pytest.fixture(scope="module")
def classifier(digits_bundle: Bundle) -> Iterator[edge.Classifier]:
    with edge.load(digits_bundle.path, backend="onnxruntime", precision="fp32") as classifier:
        set_mixed_thresholds(classifier, digits_bundle)
        yield classifier


@pytest.fixture(scope="module")
def digits(digits_bundle: Bundle) -> NDArray[np.uint8]:
    return noisy_digits(digits_bundle, 300)
