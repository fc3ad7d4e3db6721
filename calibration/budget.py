"""Thresholds within a mean cost: the most accurate ones. They promise nothing about accuracy."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.operating_points import within_budget
from calibration.thresholds import check_scores
from edge.bundle.manifest import Thresholds
from edge.decision import Scores
from edge.errors import ThresholdError


def fit_to_macs(scores: Scores, truth: NDArray[np.int64], macs: Sequence[int], share: float, split: str) -> Thresholds:
    """Return the most accurate thresholds whose mean multiply-accumulates are at most a share of the network's.

    Raises:
        ThresholdError: no thresholds keep to it, or the scores are of another network.
    """
    check_scores(scores, truth, macs)
    _check_budget(share)
    point = within_budget(scores, truth, macs, share)
    return Thresholds(point.thresholds, "mean_macs", share, "none", None, len(truth), split)


def fit_to_ms(
    scores: Scores, truth: NDArray[np.int64], costs_ms: Sequence[float], limit_ms: float, split: str
) -> Thresholds:
    """Return the most accurate thresholds whose mean latency is at most so many milliseconds, by measured segments.

    Raises:
        ThresholdError: no thresholds keep to it, or the scores are of another network.
    """
    check_scores(scores, truth, costs_ms)
    _check_budget(limit_ms)
    point = within_budget(scores, truth, costs_ms, limit_ms / sum(costs_ms))
    return Thresholds(point.thresholds, "mean_ms", limit_ms, "none", None, len(truth), split)


def measured_costs(bench: Path | None, precision: str, exits: int, segments: str) -> list[float]:
    """Return how many milliseconds each segment adds, from what `edge bench --json` printed.

    Args:
        bench: The file.
        precision: Whose exits.
        exits: Their number.
        segments: What tells this precision's segments from all others: see `edge.scores.segments_digest`.

    Raises:
        ThresholdError: there is no such file, or it did not measure every exit of these segments.
    """
    if bench is None:
        raise ThresholdError("a budget in milliseconds needs --bench FILE, what `edge bench BUNDLE --json` printed")
    try:
        printed = json.loads(bench.read_text())
        measured, measured_segments = printed["precisions"][precision], printed["segments"][precision]
        forced = [float(measurement["latency_ms"]["mean"]) for measurement in measured["per_exit"]]
        if len(forced) != exits:
            raise ValueError(f"it has {len(forced)} exits")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ThresholdError(
            f"{bench} does not say how long each of the {exits} exits of {precision} takes ({error!r}); "
            "write it with `edge bench BUNDLE --json`"
        ) from error
    if measured_segments != segments:
        raise ThresholdError(
            f"{bench} was measured with other segments than {precision} has now; "
            "measure this bundle with `edge bench BUNDLE --json`"
        )
    costs = np.diff(forced, prepend=0.0)
    if not (costs > 0).all() or not np.isfinite(costs).all():
        raise ThresholdError(
            f"in {bench} a deeper exit of {precision} takes no longer than the one before: {forced} ms; "
            "measure again on an idle machine"
        )
    return costs.tolist()


def _check_budget(budget: float) -> None:
    if not 0 < budget < math.inf:
        raise ThresholdError(f"the budget is {budget}; give a number above 0")
