"""Observations with given results, for tests of all that receives them."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, cast

from edge.decision import Prediction
from edge.frames.base import Frame
from edge.inference.base import Slot
from edge.inference.result import Result
from edge.inference.slot_pool import InFlightFrame, SlotGroup
from edge.live.messages import Observation

START = datetime(2026, 11, 27, 18, 4, 5, tzinfo=timezone.utc)
LABELS = tuple("0123456789")
FIRST = Result(
    prediction=Prediction("7", 7, 0.9, 0, 0.8), frame_index=0, age_ms=1.0, latency_ms=2.0, capture_ms=1.0, load_ms=0.5,
    infer_ms=1.0, dropped=0, skipped=0, damaged=0, time=START, captured_s=0.0, position=None,
    thresholds=(0.8, 0.9), _in_flight=InFlightFrame(cast(Slot, None), SlotGroup([], tuple)),
)  # fmt: skip


def observation(
    captured_s: float,
    label: str = "7",
    *,
    source: str = "test://",
    frame: Frame | None = None,
    probability: float = 0.9,
    confidence: float = 0.8,
    exit_index: int = 0,
    **changes: Any,
) -> Observation:
    """Return an observation `captured_s` seconds after the start of a source; `changes` are of its result."""
    prediction = Prediction(label, LABELS.index(label) if label in LABELS else -1, probability, exit_index, confidence)
    fields = {"time": START + timedelta(seconds=captured_s), "captured_s": captured_s, "prediction": prediction}
    return Observation(source, replace(FIRST, **(fields | changes)), frame)
