"""Observations for tests of what follows the pipeline."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from edge.decision import Prediction
from edge.live.messages import Observation

START = datetime(2026, 11, 27, 18, 4, 5, tzinfo=timezone.utc)
LABELS = tuple("0123456789")
_FIRST = Observation(
    source="test://", time=START, captured_s=0.0, position=None, frame_index=0,
    prediction=Prediction("7", 7, 0.9, 0, 0.8), age_ms=1.0, latency_ms=2.0, capture_ms=1.0, load_ms=0.5, infer_ms=1.0,
    dropped=0, skipped=0, damaged=0,
)  # fmt: skip


def observation(
    captured_s: float,
    label: str = "7",
    *,
    probability: float = 0.9,
    confidence: float = 0.8,
    exit_index: int = 0,
    **changes: Any,
) -> Observation:
    """Return an observation `captured_s` seconds after the start of a source."""
    prediction = Prediction(label, LABELS.index(label) if label in LABELS else -1, probability, exit_index, confidence)
    fields = {"time": START + timedelta(seconds=captured_s), "captured_s": captured_s, "prediction": prediction}
    return replace(_FIRST, **(fields | changes))
