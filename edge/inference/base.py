"""Interfaces to implement for a device that runs chains: one frame at a time, or batches."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.decision import Prediction, Predictions
from edge.frames.base import Frame

if TYPE_CHECKING:
    from edge.cuda.autotune import Tuning


class Slot(Protocol):
    """Buffers and bindings of one in-flight frame."""

    @property
    def tuning(self) -> "Tuning | None":
        """How a GPU transfers and waits for frames, chosen by timing; None on the CPU."""

    @property
    def buffer(self) -> Frame | None:
        """Memory for sources to decode into, which the device reads without a copy; None if it has no such memory."""

    def prepare(self, frame: Frame) -> None:
        """Prepare for frames of this size and format, so that the first takes no longer than the second.

        Raises:
            SourceError: the frame has another type or format than the network reads.
        """

    def start(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Preprocess a frame into the chain's input and set the thresholds; on a GPU, start inference.

        Raises:
            SourceError: the frame has another shape, type or format than the network reads.
        """

    def result(self) -> Prediction:
        """Run segments until one exits, or wait for the GPU to do so."""

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return all tensors of the chain by name, batch 1. Tensors of segments that did not run are stale."""

    def close(self) -> None:
        """Release the memory. Idempotent."""


class Batch(Protocol):
    """Batched inference: samples that exit are removed and the rest is compacted."""

    def classify(self, images: NDArray[np.float32], thresholds: NDArray[np.float32]) -> Predictions:
        """Classify preprocessed images, float32 of shape (samples, channels, height, width)."""

    def close(self) -> None:
        """Release the memory. Idempotent."""
