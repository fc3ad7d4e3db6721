"""Throughput with audits against throughput without them."""

from typing import Any

import numpy as np

from benchmarks.live.outputs import seconds, throughput_cost
from benchmarks.live.sources import MemorySource
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.inference.record import record
from edge.live.audit import DEFAULT_SHARE, Auditor
from edge.live.drift import Expected

REACHED = (0.4, 0.15)
"""Shares of frames that continue after the first exit, and after each later one."""


def mixed_thresholds(classifier: Classifier, pictures: list[Frame]) -> tuple[float, ...]:
    """Return thresholds with which some frames take each exit: an audit of the last exit's frames costs nothing."""
    confidence = record(classifier, pictures).scores.confidence[:-1]
    continuing = np.ones(len(pictures), dtype=bool)
    thresholds = []
    for k, exit_confidence in enumerate(confidence):
        reached = REACHED[min(k, len(REACHED) - 1)] * len(pictures) / continuing.sum()
        thresholds.append(float(np.quantile(exit_confidence[continuing], min(1.0, reached))))
        continuing &= exit_confidence < thresholds[-1]
    return tuple(thresholds)


def audit_cost(classifier: Classifier, pictures: list[Frame], total: int, rate: float) -> dict[str, Any]:
    """Return the share of throughput that audits cost, measured in turns with and without them.

    Args:
        classifier: The classifier, with thresholds that some frames reach at each exit.
        pictures: Frames of the camera.
        total: Results of each run.
        rate: Frames of the camera per second, more than are inferred.
    """
    expected = {classifier.thresholds: Expected(disagreement=1.0, exit_shares=None)}

    def run_seconds(*, used: bool) -> float:
        auditor = Auditor(classifier, expected) if used else None
        return seconds(classifier, MemorySource(pictures, 10**9, rate), total, [], auditor)

    return {"rate": rate, "share": DEFAULT_SHARE, **throughput_cost(run_seconds, "audit_cost", total)}
