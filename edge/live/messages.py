"""Messages to outputs: a classified frame, a change of state, a change of a source."""

import math
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias

from edge.decision import Prediction
from edge.frames.base import Frame
from edge.inference.result import Result

DURATIONS = ("capture_ms", "load_ms", "infer_ms", "age_ms", "latency_ms")
COUNTS = ("dropped", "skipped", "damaged")


@dataclass(frozen=True, slots=True)
class Observation:
    """A result of a source."""

    source: str
    """Address of the source, without secrets."""
    result: Result
    frame: Frame | None = None
    """A copy of the frame, where an output asks for frames."""

    @property
    def time(self) -> datetime:
        """Time of capture, in UTC: a label, since the wall clock may jump."""
        return self.result.time

    @property
    def prediction(self) -> Prediction:
        """Classification of the frame."""
        return self.result.prediction


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
        return common | _result_fields(message.result)
    if isinstance(message, Event):
        duration = {} if message.duration_s is None else {"duration_s": round(message.duration_s, 3)}
        return common | {"event": message.kind, "label": message.label, "label_index": message.label_index} | duration
    reason = {"reason": message.reason} if message.reason else {}
    return common | {"status": message.status, **reason, "reconnects": message.reconnects}


def _result_fields(result: Result) -> dict[str, Any]:
    prediction, position = result.prediction, result.position
    return {
        **({} if position is None else {"file" if isinstance(position, str) else "position_s": position}),
        "frame": result.frame_index,
        "label": prediction.label,
        "label_index": prediction.label_index,
        "confidence": _number(prediction.confidence),
        "probability": _number(prediction.probability),
        "exit_index": prediction.exit_index,
        **{name: round(getattr(result, name), 4) for name in DURATIONS},
        **{name: getattr(result, name) for name in COUNTS},
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
