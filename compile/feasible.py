"""Options of `python -m compile` that the sizes of a checkpoint's splits allow."""

from collections.abc import Mapping

from calibration.samples import MIN_SAMPLES
from calibration.thresholds import RiskGuarantee, samples_needed
from edge.bundle.manifest import SplitSpec

LIMITS = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Limits of the risk to try, in this order."""
MARGIN = 2
"""Multiple of the samples needed; with fewer, early exits could hardly lose a prediction."""


def feasible_options(splits: Mapping[str, SplitSpec], *, has_early_exits: bool) -> list[str]:
    """Return the options with which a checkpoint compiles; empty if the defaults are enough.

    Args:
        splits: Splits of the checkpoint.
        has_early_exits: False for a truncated network, which has no thresholds.
    """
    options = [] if splits["calibration"].samples >= MIN_SAMPLES else ["--precision", "fp32", "fp16"]
    return [*options, *_guarantee_options(splits["thresholds"].samples)] if has_early_exits else options


def _guarantee_options(samples: int) -> list[str]:
    """Return the options of the strongest guarantee: the default, else one on average, else none."""
    if _is_feasible(RiskGuarantee(), samples):
        return []
    for limit in LIMITS:
        if _is_feasible(RiskGuarantee(limit=limit, method="expectation"), samples // MARGIN):
            return ["--method", "expectation", "--limit", f"{limit:g}"]
    return ["--method", "none"]


def _is_feasible(guarantee: RiskGuarantee, samples: int) -> bool:
    needed = samples_needed(guarantee)
    return needed is not None and samples >= needed
