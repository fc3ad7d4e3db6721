"""Precisions whose thresholds have certified candidates."""

import dataclasses
from collections.abc import Sequence

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import Candidate, PrecisionSpec


def certified(bundle: Bundle, bounds: Sequence[float | None], split: str = "") -> PrecisionSpec:
    """Return the bundle's fp32 with a candidate for each bound on the disagreement, fitted to a split.

    The thresholds are 0.9 for the costliest, then 0.1 lower for each.
    """
    spec = bundle.precision("fp32")
    values = [(0.9 - index / 10,) * (len(spec.segments) - 1) for index in range(len(bounds))]
    candidates = tuple(Candidate(value, 0.01, bound, 0.5) for value, bound in zip(values, bounds, strict=True))
    thresholds = dataclasses.replace(spec.thresholds, candidates=candidates, values=values[-1], split=split)
    return dataclasses.replace(spec, thresholds=thresholds)
