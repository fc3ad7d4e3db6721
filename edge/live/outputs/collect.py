"""Frames to label: those whose confidence was nearest to a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np

from edge.frames.base import Frame, PixelFormat
from edge.frames.colour import bgr_pixels
from edge.live.messages import Message, Observation, iso_time, record
from edge.live.outputs.base import Output
from edge.live.reservoir import Reservoir, file_name

MAX_FILES, MAX_BYTES = 500, 1 << 30
INTERVAL_S = 30.0


@dataclass(frozen=True, slots=True)
class NearestFrame:
    """The frame nearest to a threshold in the interval that began at `since_s`."""

    observation: Observation
    frame: Frame
    margin: float
    since_s: float


class Collector(Output):
    """An output that collects frames in a folder, at most one in each interval of a source.

    The nearest frames stay in the folder; of a scene that stands still, it has few.
    """

    name, wants_frames = "collect", True

    def __init__(
        self,
        folder: Path,
        *,
        max_files: int = MAX_FILES,
        max_bytes: int = MAX_BYTES,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Store the arguments.

        Args:
            folder: A new or empty folder, or that of an earlier run.
            max_files: Unsorted files at most.
            max_bytes: Their size at most.
            interval_s: Length of an interval. Every image of a folder is an interval of its own.
        """
        self._reservoir = Reservoir(folder, max_files, max_bytes)
        self._interval_s = interval_s
        self._nearest: dict[str, NearestFrame] = {}

    def open(self) -> None:
        """Create or take over the folder.

        Raises:
            OutputError: it holds something else, or another process collects into it.
        """
        self._reservoir.open()

    def chooses(self, observation: Observation) -> bool:
        """Check that a frame is nearer to a threshold than the one it would replace."""
        nearest = self._nearest.get(observation.source)
        if nearest is None or self._is_over(nearest, observation):
            return self._margin(observation) < self._reservoir.limit
        return self._margin(observation) < nearest.margin

    def write(self, messages: Sequence[Message]) -> None:
        """Keep the nearest frame of each interval."""
        self._reservoir.rescan()
        for message in messages:
            if isinstance(message, Observation):
                self._add(message)

    def close(self) -> None:
        """Save the nearest frames of intervals that are not over. Idempotent."""
        try:
            for source in list(self._nearest):
                self._save(self._nearest.pop(source))
        finally:
            self._reservoir.close()

    def _add(self, observation: Observation) -> None:
        source, now_s = observation.source, observation.result.timeline_s
        nearest = self._nearest.get(source)
        if nearest is not None and self._is_over(nearest, observation):
            self._save(self._nearest.pop(source))
            nearest = None
        if observation.frame is not None and self.chooses(observation):
            since_s = now_s if nearest is None else nearest.since_s
            margin = self._margin(observation)
            self._nearest[source] = NearestFrame(observation, observation.frame, margin, since_s)

    def _is_over(self, nearest: NearestFrame, observation: Observation) -> bool:
        """Check that an observation is not in the interval of a frame."""
        passed_s = observation.result.timeline_s - nearest.since_s
        return isinstance(observation.result.position, str) or not 0 <= passed_s < self._interval_s

    def _margin(self, observation: Observation) -> float:
        """Return the distance of the confidence from the threshold of the exit that answered.

        The last exit has no threshold: there it is the last one that an exit before did not reach. Thresholds above 1,
        which never exit, do not count. Without any threshold, the least confident predictions are collected.
        """
        prediction, thresholds = observation.prediction, observation.result.thresholds
        reachable = [threshold for threshold in thresholds[: prediction.exit_index + 1] if threshold <= 1]
        return abs(prediction.confidence - (reachable[-1] if reachable else 0.0))

    def _save(self, nearest: NearestFrame) -> None:
        observation, margin = nearest.observation, nearest.margin
        suffix, content = encode(nearest.frame)
        name = file_name(observation.prediction.label, margin, iso_time(observation.time), suffix)
        self._reservoir.add(margin, name, content, record(observation))


def encode(frame: Frame) -> tuple[str, bytes]:
    """Return a frame as a file without loss, by suffix and content: a PNG image, or an array."""
    if frame.format is PixelFormat.ARRAY:
        content = BytesIO()
        np.save(content, frame.pixels, allow_pickle=False)
        return ".npy", content.getvalue()
    pixels = frame.pixels if frame.format is PixelFormat.GRAY else bgr_pixels(frame)
    return ".png", cv2.imencode(".png", pixels)[1].tobytes()
