"""Stand-ins and comparisons for tests of the public Python interface."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from edge.errors import SourceError
from edge.inference.host import HostSlot


class SlotLog:
    """Slots made during a test."""

    def __init__(self) -> None:
        self.made: list[HostSlot] = []
        self.closed: list[HostSlot] = []

    def new_slot(self, device: str, chain: Any, engines: Any) -> HostSlot:
        slot = HostSlot(chain, engines)
        slot.close = lambda: self.closed.append(slot)  # type: ignore[method-assign]
        self.made.append(slot)
        return slot


class ArraySource:
    """Gives frames from an array, and fails after `fails_at` frames."""

    is_live = False
    frames: int | None = None

    def __init__(self, images: NDArray[np.uint8], fails_at: int | None = None) -> None:
        self._images, self._fails_at = images, fails_at
        self.reads, self.is_closed = 0, False

    def read(self, out: edge.Frame | None) -> edge.Frame | None:
        assert not self.is_closed
        if self.reads == self._fails_at:
            raise SourceError("the camera was unplugged")
        if self.reads == len(self._images):
            return None
        self.reads += 1
        return edge.Frame(self._images[self.reads - 1].copy(), edge.PixelFormat.GRAY)

    def close(self) -> None:
        self.is_closed = True


def assert_equal_predictions(batched: Sequence[edge.Prediction], single: Sequence[edge.Prediction]) -> None:
    """Check for equal labels and exits; probabilities may differ by rounding."""
    assert [(p.label, p.label_index, p.exit_index) for p in batched] == [
        (p.label, p.label_index, p.exit_index) for p in single
    ]
    for name in ("probability", "confidence"):
        expected = [getattr(prediction, name) for prediction in single]
        assert [getattr(prediction, name) for prediction in batched] == pytest.approx(expected, abs=1e-5)
