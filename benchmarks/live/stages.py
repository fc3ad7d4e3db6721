"""Stages of the pipeline by themselves: capture of a video, and inference of frames in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.frames.base import Frame
from edge.frames.open import open_source
from edge.inference.classifier import Classifier


def read_frames(video: Path) -> list[Frame]:
    """Return all frames of the video, in memory of their own."""
    source, frames = open_source(video), []
    while (frame := source.read(None)) is not None:
        frames.append(frame)
    source.close()
    return frames


def capture_all(video: Path) -> None:
    """Read the video."""
    source, frame = open_source(video), None
    while (frame := source.read(frame)) is not None:
        pass
    source.close()


def infer_all(classifier: Classifier, frames: Sequence[Frame]) -> None:
    """Preprocess and infer frames from memory."""
    slot, thresholds = classifier.new_slot(), thresholds_of(classifier)
    for frame in frames:
        slot.start(frame, thresholds)
        slot.result()
    slot.close()


def infer_video(classifier: Classifier, video: Path) -> None:
    """Read and infer in one thread."""
    source, slot, thresholds = open_source(video), classifier.new_slot(), thresholds_of(classifier)
    frame = None
    while (frame := source.read(frame)) is not None:
        slot.start(frame, thresholds)
        slot.result()
    source.close()
    slot.close()


def thresholds_of(classifier: Classifier) -> NDArray[np.float32]:
    """Return the thresholds as slots read them."""
    return np.array(classifier.thresholds, dtype=np.float32)
