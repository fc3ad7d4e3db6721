"""Messages to outputs: frames classified and audited, changes of states, sources, thresholds and bundles, alarms."""

import math
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.decision import Prediction
from edge.errors import utf8
from edge.frames.base import Frame
from edge.inference.result import Result
from edge.live.deployment import Deployment

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
    attention: NDArray[np.float32] | None = None
    """Attention map of the exit that answered, where an output asks for it and the exit has one."""

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


@dataclass(frozen=True, slots=True)
class Audit:
    """A classified frame that also ran to the last exit."""

    source: str
    result: Result
    last: Prediction
    """Prediction of the last exit."""
    left_out: int
    """Frames of the source so far that were selected for an audit and left out, since earlier ones still waited."""

    @property
    def time(self) -> datetime:
        """Time of capture, in UTC."""
        return self.result.time

    @property
    def differs(self) -> bool:
        """True if the exit that answered and the last exit predict different labels."""
        return self.result.label_index != self.last.label_index

    @property
    def outcome(self) -> Literal["agrees", "differs"]:
        """The same in a word."""
        return "differs" if self.differs else "agrees"


AlarmKind = Literal["disagreement", "exit_shares", "latency"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """Evidence that a source breaks a bound; it stays raised until the run ends or another bundle answers."""

    kind: AlarmKind
    source: str
    time: datetime
    """Time of capture, in UTC, of the frame that decided."""
    reason: str
    audited: int
    """Audited frames of the source until then."""


@dataclass(frozen=True, slots=True)
class CandidateChange:
    """A choice among the certified candidates at run time."""

    source: str
    """Source whose frames caused it; the thresholds are those of all sources."""
    time: datetime
    candidate_index: int
    """Index of the candidate in force from now on, from 0 for the costliest."""
    candidates: int
    """Number of candidates."""
    reason: str


BundleStatus = Literal["swapped", "refused", "failing", "following"]


@dataclass(frozen=True, slots=True)
class BundleChange:
    """News of a followed tag: another bundle answers or was refused, or polls or pulls fail or succeed again."""

    source: str
    """A source of the run; each gets the message."""
    time: datetime
    status: BundleStatus
    bundle: str
    """Digest, shortened: of the bundle that was refused, else of the one that answers frames captured from now on."""
    reason: str
    faults: int
    """Polls and pulls that failed so far, for whichever reason."""
    deployment: Deployment | None = None
    """Bundle and classifier, for `swapped`."""
    is_repeated: bool = False
    """True for `failing` after `failing`: a further fault, to be counted and not shown."""


Message: TypeAlias = Observation | Event | SourceChange | Audit | Alarm | CandidateChange | BundleChange


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
    if isinstance(message, SourceChange):
        reason = {"reason": message.reason} if message.reason else {}
        return common | {"status": message.status, **reason, "reconnects": message.reconnects}
    if isinstance(message, BundleChange):
        change = {"bundle": message.bundle, "reason": message.reason, "faults": message.faults}
        return common | {"follow": message.status} | change
    return common | _watch_fields(message)


def _watch_fields(message: Audit | Alarm | CandidateChange) -> dict[str, Any]:
    if isinstance(message, Audit):
        result, last = message.result, message.last
        labels = {"label": result.label, "last_label": last.label}
        return {"audit": message.outcome, "audited_frame": result.frame_index, **labels}
    if isinstance(message, Alarm):
        return {"alarm": message.kind, "reason": message.reason, "audited": message.audited}
    return {"candidate_index": message.candidate_index, "candidates": message.candidates, "reason": message.reason}


def _result_fields(result: Result) -> dict[str, Any]:
    prediction = result.prediction
    return {
        **_position(result.position),
        "frame": result.frame_index,
        "label": prediction.label,
        "label_index": prediction.label_index,
        "confidence": _number(prediction.confidence),
        "probability": _number(prediction.probability),
        "exit_index": prediction.exit_index,
        **{name: round(getattr(result, name), 4) for name in DURATIONS},
        **{name: getattr(result, name) for name in COUNTS},
        **({"bundle": result.bundle} if result.bundle else {}),
    }


def _position(position: str | float | None) -> dict[str, Any]:
    if isinstance(position, str):
        return {"file": utf8(position)}
    return {} if position is None else {"position_s": position}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
