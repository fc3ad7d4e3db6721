"""Thresholds for a budget: the most accurate within a mean cost, without a guarantee on accuracy."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.candidates import describe_candidate
from calibration.operating_points import within_budget
from calibration.thresholds import check_scores
from edge.bundle.manifest import Thresholds
from edge.decision import Scores
from edge.errors import ThresholdError
from edge.storage import read_file

MAX_BENCH_BYTES = 16 << 20
WRITE_BENCH = "write it with `edge bench BUNDLE --json`"


def fit_to_macs(
    scores: Scores, truth: NDArray[np.int64], macs: Sequence[float], macs_ratio: float, split: str
) -> Thresholds:
    """Return the most accurate thresholds within a mean of multiply-accumulates.

    Args:
        scores: Every exit's confidence and label.
        truth: True labels, shape (samples,).
        macs: Multiply-accumulates of each segment.
        macs_ratio: Largest mean, as a share of the whole network's.
        split: Fingerprint of the samples, for the manifest.

    Raises:
        ThresholdError: no thresholds are within the budget, or the scores belong to another network.
    """
    check_scores(scores, truth, macs)
    _check_budget(macs_ratio)
    if macs_ratio > 1:
        raise ThresholdError(
            f"the budget is {macs_ratio:g} times the whole network's cost; give a share of it, such as 0.5 for half"
        )
    values = np.array(within_budget(scores, truth, macs, macs_ratio).thresholds, dtype=np.float32)
    candidate = describe_candidate(scores, truth, macs, values)
    return Thresholds(candidate.values, "mean_macs", macs_ratio, "none", None, len(truth), split, (candidate,))


def fit_to_ms(
    scores: Scores,
    truth: NDArray[np.int64],
    macs: Sequence[float],
    costs_ms: Sequence[float],
    limit_ms: float,
    split: str,
) -> Thresholds:
    """Return the most accurate thresholds within a mean latency.

    Args:
        scores: Every exit's confidence and label.
        truth: True labels, shape (samples,).
        macs: Multiply-accumulates of each segment.
        costs_ms: Measured latency of each segment: see `segment_latencies_ms`.
        limit_ms: Largest mean latency.
        split: Fingerprint of the samples, for the manifest.

    Raises:
        ThresholdError: no thresholds are within the budget, or the scores belong to another network.
    """
    check_scores(scores, truth, costs_ms)
    _check_budget(limit_ms)
    values = np.array(within_budget(scores, truth, costs_ms, limit_ms / sum(costs_ms)).thresholds, dtype=np.float32)
    candidate = describe_candidate(scores, truth, macs, values)
    return Thresholds(candidate.values, "mean_ms", limit_ms, "none", None, len(truth), split, (candidate,))


def segment_latencies_ms(bench: Path | None, precision: str, exits: int, segments: str) -> list[float]:
    """Return the mean latency that each segment adds, from the output of `edge bench --json`.

    Args:
        bench: The file with the output.
        precision: The precision to read.
        exits: Number of exits.
        segments: Digest of the precision's segments: see `edge.bundle.scores.segments_digest`.

    Raises:
        ThresholdError: the file is missing, incomplete, or measured other segments.
    """
    if bench is None:
        raise ThresholdError("a budget in milliseconds needs --bench FILE, the output of `edge bench BUNDLE --json`")
    latencies_ms, measured_segments = _read_bench(bench, precision, exits)
    if measured_segments != segments:
        raise ThresholdError(
            f"{bench} was measured with segments that differ from those of {precision}; "
            "measure this bundle with `edge bench BUNDLE --json`"
        )
    added_ms = np.diff(latencies_ms, prepend=0.0)
    if not (added_ms > 0).all() or not np.isfinite(added_ms).all():
        raise ThresholdError(
            f"in {bench}, an exit of {precision} takes no longer than the exit before it: {latencies_ms} ms; "
            "measure again on an idle machine"
        )
    return added_ms.tolist()


def _read_bench(bench: Path, precision: str, exits: int) -> tuple[list[float], str]:
    """Return the mean latency of each exit in milliseconds, and the digest of the segments measured."""
    try:
        output = json.loads(read_file(bench, MAX_BENCH_BYTES))
        per_exit, segments = output["precisions"][precision]["per_exit"], output["segments"][precision]
        means = [measurement["latency_ms"]["mean"] for measurement in per_exit]
        if len(means) != exits or any(type(mean) not in (int, float) for mean in means):
            raise ValueError(f"its means are {means}")
        return [float(mean) for mean in means], segments
    except OSError as error:
        raise ThresholdError(f"{bench} cannot be read ({error.strerror}); {WRITE_BENCH}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise ThresholdError(
            f"{bench} lacks the latency of one of the {exits} exits of {precision} ({reason}); {WRITE_BENCH}"
        ) from error


def _check_budget(budget: float) -> None:
    if not 0 < budget < math.inf:
        raise ThresholdError(f"the budget is {budget}; give a number above 0")
