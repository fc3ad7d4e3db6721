"""A classifier, digits in random order with noise, and the slots made during a test."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from edge.bundle.bundle import Bundle
from tests.support.commands import random_frames, write_video
from tests.support.front_door import SlotLog
from tests.support.noisy_digits import noisy_digits, set_mixed_thresholds


@pytest.fixture(scope="module")
def classifier(digits_bundle: Bundle) -> Iterator[edge.Classifier]:
    with edge.load(digits_bundle.path, backend="onnxruntime", precision="fp32") as classifier:
        set_mixed_thresholds(classifier, digits_bundle)
        yield classifier


@pytest.fixture(scope="module")
def digits(digits_bundle: Bundle) -> NDArray[np.uint8]:
    return noisy_digits(digits_bundle, 3000)


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    """Return a BGR image that is larger than the network's input."""
    return random_frames(1, 40, 60)[0]


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> SlotLog:
    log = SlotLog()
    monkeypatch.setattr("edge.inference.classifier.new_slot", log.new_slot)
    return log


@pytest.fixture
def folder(digits: NDArray[np.uint8], tmp_path: Path) -> Path:
    """Return a folder of 30 images."""
    (tmp_path / "images").mkdir()
    for index, pixels in enumerate(digits[:30]):
        cv2.imwrite(str(tmp_path / "images" / f"{index:02}.png"), pixels)
    return tmp_path / "images"


@pytest.fixture
def video(digits: NDArray[np.uint8], tmp_path: Path) -> Path:
    """Return a lossless video of 30 frames."""
    return write_video(tmp_path / "video.avi", np.repeat(digits[:30, :, :, None], 3, axis=3))
