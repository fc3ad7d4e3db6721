"""Deadlines: the costliest certified candidate with which frames are answered in time."""

import logging
import threading
from collections.abc import Sequence

from edge.decision import validate_thresholds
from edge.inference.classifier import Classifier
from edge.live.messages import CandidateChange, Observation

WINDOW, MAX_LATE = 100, 5
"""Frames that are judged together, and how many of them may be late: the 95th percentile."""
HEADROOM = 0.8
"""Part of the deadline that latency must keep for a costlier candidate."""
MIN_PATIENCE, MAX_PATIENCE = 10, 640
"""Windows in a row that must have headroom; doubled with every costlier candidate, so that vain attempts get rare."""

log = logging.getLogger(__name__)


class Deadline:
    """The choice among certified candidates by the latency of all sources.

    The next cheaper candidate is chosen as soon as more than 5 of 100 frames are late; the next costlier one once
    latency has had headroom for a long time. Thresholds between candidates are never chosen.
    """

    def __init__(self, classifier: Classifier, candidates: Sequence[tuple[float, ...]], deadline_ms: float) -> None:
        """Begin with the costliest candidate.

        Args:
            classifier: Classifier whose thresholds are changed.
            candidates: Thresholds, from the costliest to the cheapest.
            deadline_ms: Largest latency of 95 % of the frames.
        """
        self.deadline_ms = deadline_ms
        self._lock = threading.Lock()
        self.replace(classifier, candidates)

    def replace(self, classifier: Classifier, candidates: Sequence[tuple[float, ...]]) -> None:
        """Begin anew with another classifier and its candidates."""
        exits = classifier.chain.exits
        with self._lock:
            self._classifier = classifier
            self._candidates = [tuple(validate_thresholds(values, exits).tolist()) for values in candidates]
            classifier.thresholds = self._judged = self._candidates[0]
            self._patience, self._is_reported = MIN_PATIENCE, False
            self._calm = 0
            """Windows in a row that had headroom."""
            self._start_window()

    def add(self, observation: Observation) -> CandidateChange | None:
        """Judge a further frame; return the change that it causes, or None."""
        result = observation.result
        with self._lock:
            if result.thresholds != self._classifier.thresholds or result.thresholds not in self._candidates:
                return None  # it was in flight when they were changed, or somebody else has set them
            if result.thresholds != self._judged:  # somebody else has chosen this candidate
                self._judged, self._calm = result.thresholds, 0
                self._start_window()
            self._frames += 1
            self._late += result.latency_ms > self.deadline_ms
            self._tight += result.latency_ms > HEADROOM * self.deadline_ms
            if self._late > MAX_LATE:
                return self._choose_cheaper(observation)
            if self._frames == WINDOW:
                return self._end_window(observation)
        return None

    def _choose_cheaper(self, observation: Observation) -> CandidateChange | None:
        reason = f"{self._late} of {self._frames} frames took longer than the deadline of {self.deadline_ms:g} ms"
        index, self._calm = self._index(), 0
        self._start_window()
        if index + 1 < len(self._candidates):
            return self._choose(index + 1, observation, reason)
        if self._is_reported:
            return None
        self._is_reported = True
        return self._choose(index, observation, f"{reason}; no cheaper one is certified: late frames may be dropped")

    def _end_window(self, observation: Observation) -> CandidateChange | None:
        self._calm = self._calm + 1 if self._tight <= MAX_LATE else 0
        self._is_reported = False
        self._start_window()
        index = self._index()
        if self._calm < self._patience or index == 0:
            return None
        reason = (
            f"latency kept {HEADROOM:.0%} of the deadline of {self.deadline_ms:g} ms in {self._calm * WINDOW} frames"
        )
        self._calm, self._patience = 0, min(2 * self._patience, MAX_PATIENCE)
        return self._choose(index - 1, observation, reason)

    def _choose(self, index: int, observation: Observation, reason: str) -> CandidateChange:
        self._classifier.thresholds = self._judged = self._candidates[index]
        log.warning("%s: candidate %d of %d: %s", observation.source, index + 1, len(self._candidates), reason)
        return CandidateChange(observation.source, observation.time, index, len(self._candidates), reason)

    def _index(self) -> int:
        return self._candidates.index(self._judged)

    def _start_window(self) -> None:
        self._frames = self._late = self._tight = 0
