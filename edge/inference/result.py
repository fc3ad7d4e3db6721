"""The result of a frame."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.decision import Prediction
from edge.errors import SourceError
from edge.frames.base import Frame
from edge.inference.slot_pool import InFlightFrame


@dataclass(frozen=True, slots=True)
class Result:
    """A prediction with its frame's index, origin, durations in milliseconds, and counts of frames left out."""

    prediction: Prediction
    frame_index: int
    """Position in the source, dropped frames included."""
    age_ms: float
    """Age of the frame when its inference started."""
    latency_ms: float
    """Time from the frame's capture to its prediction."""
    capture_ms: float
    """Time of waiting for the source and decoding; not part of the latency."""
    load_ms: float
    infer_ms: float
    dropped: int
    """Frames dropped so far because inference was late."""
    skipped: int
    """Frames left out by the source's trigger so far."""
    damaged: int
    """Damaged frames or files left out so far."""
    time: datetime
    """Time of capture, in UTC."""
    captured_s: float
    """Time of capture on the monotonic clock, in seconds."""
    position: str | float | None
    """Position in the source: a file's path in its folder, or seconds from a video's start; None for live sources."""
    thresholds: tuple[float, ...]
    """Thresholds that the frame was classified with."""
    bundle: str = field(default="", kw_only=True)
    """Digest of the bundle, shortened, where a tag in a registry is followed; else empty."""
    _in_flight: InFlightFrame = field(repr=False, compare=False)

    @property
    def timeline_s(self) -> float:
        """Moment from which durations are computed: seconds from a video's start, else on the monotonic clock."""
        return self.position if isinstance(self.position, float) else self.captured_s

    @property
    def label(self) -> str:
        """Name of the predicted class."""
        return self.prediction.label

    @property
    def label_index(self) -> int:
        """Index of the predicted class."""
        return self.prediction.label_index

    @property
    def probability(self) -> float:
        """Calibrated probability of the label."""
        return self.prediction.probability

    @property
    def confidence(self) -> float:
        """Uncalibrated confidence, as the exit rule uses it."""
        return self.prediction.confidence

    @property
    def exit_index(self) -> int:
        """Index of the exit that answered."""
        return self.prediction.exit_index

    def copy_frame(self) -> Frame:
        """Return a copy of the frame; possible until the next result is requested or the stream is closed.

        Raises:
            SourceError: the memory was reused.
        """
        frame = self._in_flight.frame
        if frame is None or self._in_flight.frame_index != self.frame_index:
            raise SourceError(
                f"frame {self.frame_index} is no longer available: its memory was reused when the next result was "
                "requested or the stream was closed; copy it before"
            )
        return Frame(frame.pixels.copy(), frame.format, frame.position)

    def copy_tensors(self) -> dict[str, NDArray[Any]]:
        """Return copies of the chain's tensors by name, on the same condition. Tensors not computed are stale.

        Raises:
            SourceError: the memory was reused.
        """
        return {name: np.array(tensor) for name, tensor in self._tensors().items()}

    def copy_attention(self) -> NDArray[np.float32] | None:
        """Return the attention map of the exit that answered, shape (height, width), or None if its head has none.

        Raises:
            SourceError: the memory was reused.
        """
        attention = self._tensors().get(tensors.attention(self.exit_index))
        return None if attention is None else np.array(attention[0, 0])

    def _tensors(self) -> Mapping[str, NDArray[Any]]:
        if self._in_flight.frame_index != self.frame_index:
            raise SourceError(
                f"the tensors of frame {self.frame_index} are no longer available; copy them before the next result is "
                "requested or the stream is closed"
            )
        return self._in_flight.slot.tensors()
