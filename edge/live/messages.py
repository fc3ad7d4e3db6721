"""Messages to outputs: a classified frame, a change of state, a change of a source."""

import math
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias

from edge.decision import Prediction
from edge.frames.base import Frame


@dataclass(frozen=True, slots=True)
class Observation:
    """A classified frame of a source."""

    source: str
    """Address of the source, without secrets."""
    time: datetime
    """Moment of capture, in UTC: a label, since the wall clock may jump."""
    captured_s: float
    """Moment of capture on the monotonic clock."""
    position: str | float | None
    """Place in the source: a file's path in its folder, seconds from a video's start; None for live sources."""
    frame_index: int
    prediction: Prediction
    age_ms: float
    """Age of the frame when its inference started."""
    latency_ms: float
    """From the frame's capture to its prediction."""
    capture_ms: float
    load_ms: float
    infer_ms: float
    dropped: int
    """Frames of this source dropped so far, since inference was late."""
    skipped: int
    """Frames of this source so far that the trigger left out."""
    damaged: int
    """Damaged frames or files of this source left out so far."""
    frame: Frame | None = None
    """A copy of the frame, where an output asks for frames."""

    @property
    def timeline_s(self) -> float:
        """Moment from which durations are computed: seconds from a video's start, else on the monotonic clock."""
        return self.position if isinstance(self.position, float) else self.captured_s


@dataclass(frozen=True, slots=True)
class Event:
    """A state of a source that began or ended: so many of the last predictions agree, or agree no more."""

    kind: Literal["entered", "left"]
    source: str
    time: datetime
    """Moment of capture, in UTC, of the frame that decided."""
    label: str
    label_index: int
    duration_s: float | None
    """Seconds in the state, for `left`; None for `entered`."""


SourceStatus = Literal["connected", "lost", "stalled", "frozen", "ended"]


@dataclass(frozen=True, slots=True)
class SourceChange:
    """A source that came, went, or gives the same picture again and again."""

    source: str
    time: datetime
    status: SourceStatus
    reason: str
    """Empty for `connected` and `ended`."""
    reconnects: int
    """Connections so far, without the first."""


Message: TypeAlias = Observation | Event | SourceChange


def iso_time(time: datetime) -> str:
    """Return a time in UTC as ISO 8601 with milliseconds, such as `2026-11-27T18:04:05.123Z`."""
    utc = time.astimezone(timezone.utc)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03}Z"


def record(message: Message) -> dict[str, Any]:
    """Return a message as the JSON object that outputs write."""
    common = {"time": iso_time(message.time), "source": message.source}
    if isinstance(message, Observation):
        return common | _observation_fields(message)
    if isinstance(message, Event):
        duration = {} if message.duration_s is None else {"duration_s": round(message.duration_s, 3)}
        return common | {"event": message.kind, "label": message.label, "label_index": message.label_index} | duration
    reason = {"reason": message.reason} if message.reason else {}
    return common | {"status": message.status, **reason, "reconnects": message.reconnects}


def _observation_fields(observation: Observation) -> dict[str, Any]:
    prediction, position = observation.prediction, observation.position
    return {
        **({} if position is None else {"file" if isinstance(position, str) else "position_s": position}),
        "frame": observation.frame_index,
        "label": prediction.label,
        "label_index": prediction.label_index,
        "confidence": _number(prediction.confidence),
        "probability": _number(prediction.probability),
        "exit_index": prediction.exit_index,
        "age_ms": round(observation.age_ms, 4),
        "latency_ms": round(observation.latency_ms, 4),
        "capture_ms": round(observation.capture_ms, 4),
        "load_ms": round(observation.load_ms, 4),
        "infer_ms": round(observation.infer_ms, 4),
        "dropped": observation.dropped,
        "skipped": observation.skipped,
        "damaged": observation.damaged,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
