"""Sources and slots for measurements: frames from memory, at a rate or as fast as possible, and slow inference."""

from collections.abc import Sequence
from itertools import count
from time import monotonic, sleep

import numpy as np
from numpy.typing import NDArray

from edge.decision import Prediction
from edge.frames.base import Frame
from edge.inference.base import Slot
from edge.inference.classifier import Classifier


class MemorySource:
    """Frames from memory, again and again, as a live source gives them."""

    is_live = True
    frames: int | None = None

    def __init__(self, pictures: Sequence[Frame], total: int, rate: float | None = None) -> None:
        """Give `total` frames at `rate` a second, or as fast as they are read."""
        self._pictures, self._total, self._rate = pictures, total, rate
        self._indices, self._started = count(), monotonic()

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame when it is due: its own moment, however late the one before was read."""
        index = next(self._indices)
        if index == self._total:
            return None
        if self._rate is not None:
            sleep(max(0.0, self._started + index / self._rate - monotonic()))
        return self._pictures[index % len(self._pictures)]

    def close(self) -> None:
        """Do nothing: there is only memory."""


class SlowSlot:
    """A classifier's slot whose inference takes a given time in all."""

    def __init__(self, classifier: Classifier, seconds: float) -> None:
        """Wrap a new slot."""
        self._slot: Slot = classifier.new_slot()
        self._seconds = seconds
        self.buffer, self.tuning = self._slot.buffer, self._slot.tuning

    def prepare(self, frame: Frame) -> None:
        """Prepare the slot."""
        self._slot.prepare(frame)

    def start(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Preprocess a frame."""
        self._slot.start(frame, thresholds)

    def result(self) -> Prediction:
        """Infer, and wait for the rest of the time."""
        due = monotonic() + self._seconds
        prediction = self._slot.result()
        sleep(max(0.0, due - monotonic()))
        return prediction

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the tensors of the slot."""
        return dict(self._slot.tensors())

    def close(self) -> None:
        """Release the slot."""
        self._slot.close()
