"""Throughput with audits against throughput without them."""

from typing import Any

from benchmarks.live.outputs import seconds, throughput_cost
from benchmarks.live.sources import MemorySource
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.live.audit import DEFAULT_SHARE, Auditor
from edge.live.drift import Expected


def audit_cost(classifier: Classifier, pictures: list[Frame], total: int, rate: float) -> dict[str, Any]:
    """Return the share of throughput that audits cost, measured in turns with and without them.

    Args:
        classifier: The classifier.
        pictures: Frames of the camera.
        total: Results of each run.
        rate: Frames of the camera per second, more than are inferred.
    """
    expected = {classifier.thresholds: Expected(disagreement=1.0, exit_shares=None)}

    def run_seconds(*, used: bool) -> float:
        auditor = Auditor(classifier, expected) if used else None
        return seconds(classifier, MemorySource(pictures, 10**9, rate), total, [], auditor)

    return {"rate": rate, "share": DEFAULT_SHARE, **throughput_cost(run_seconds, "audit_cost", total)}
