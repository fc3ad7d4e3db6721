"""Are promises kept? Thresholds fitted again and again to samples drawn from one pool, judged by the pool itself."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import command_line, write_result
from calibration.operating_points import describe
from calibration.thresholds import RiskGuarantee, fit_thresholds
from edge.bundle.bundle import Bundle
from edge.console import log, print_table, track
from edge.decision import Scores, decide
from edge.risk import HIGH_PROBABILITY_METHODS, RISKS
from edge.system import conditions

RESPLITS = 500
LIMITS = {"accuracy_gap": 0.005, "disagreement": 0.02}
METHODS = ("betting", "hoeffding-bentkus", "expectation")
DELTA = 0.05


def run_risk(bundle_path: Path, precision: str, output: Path) -> None:
    """Write `risk.json`: how often each method's promise was broken, and what it costs against promising nothing.

    The pool is what the bundle's segments said of its threshold-fitting split. Each time as many samples are drawn
    from it, with replacement, so that the pool's own risk is the true one.
    """
    bundle = Bundle.open(bundle_path)
    recorded = bundle.scores(precision)
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    fit = partial(fitted_often, scores=recorded.scores, truth=recorded.truth, macs=macs)
    asked = list(guarantees())
    careless = {guarantee: fit(guarantee) for guarantee in track(naive_of(asked), f"naive, {RESPLITS} re-splits each")}
    rows = [
        judged(guarantee, fit(guarantee), careless[replace(guarantee, method="none")])
        for guarantee in track(asked, f"{RESPLITS} re-splits each")
    ]
    result = {"command": command_line(), "conditions": conditions(), "bundle": bundle.manifest.name}
    write_result(output, result | {"precision": precision, "samples": len(recorded.truth), "rows": rows})
    columns = ("risk", "limit", "method", "thresholds", "broken", "asked", "mean risk", "mean MACs", "naive fit")
    print_table(f"promises on {bundle.manifest.name}, {RESPLITS} re-splits", columns, [cells(row) for row in rows])
    log(f"every row is in {output}")


def guarantees() -> Iterator[RiskGuarantee]:
    """Yield every promise there is to make."""
    for risk, method, shared in product(LIMITS, METHODS, (True, False)):
        yield RiskGuarantee(risk, LIMITS[risk], method, 1 - DELTA, shared)  # type: ignore[arg-type]  # words of a product


def naive_of(guarantees: Sequence[RiskGuarantee]) -> list[RiskGuarantee]:
    """Return each promise without anything that keeps it, once."""
    return list(dict.fromkeys(replace(guarantee, method="none") for guarantee in guarantees))


def judged(guarantee: RiskGuarantee, kept: NDArray[np.float64], naive: NDArray[np.float64]) -> dict[str, Any]:
    """Return how often thresholds with this promise broke it, beside thresholds fitted without one."""
    (risks, ratios), (naive_risks, naive_ratios) = kept, naive
    return {
        "risk": guarantee.risk,
        "method": guarantee.method,
        "shared": guarantee.shared,
        "epsilon": guarantee.limit,
        "delta": DELTA if guarantee.method in HIGH_PROBABILITY_METHODS else None,
        "resplits": RESPLITS,
        "violation_rate": float((risks > guarantee.limit).mean()),
        "mean_risk": float(risks.mean()),
        "mean_macs_ratio": float(ratios.mean()),
        "naive_violation_rate": float((naive_risks > guarantee.limit).mean()),
        "naive_mean_macs_ratio": float(naive_ratios.mean()),
        "macs_over_naive": float(ratios.mean() / naive_ratios.mean()),
    }


def fitted_often(
    guarantee: RiskGuarantee, scores: Scores, truth: NDArray[np.int64], macs: list[int]
) -> NDArray[np.float64]:
    """Return the pool's risk and mean cost under thresholds fitted to each of many draws, shape (2, re-splits)."""
    return np.array([fitted_once(guarantee, scores, truth, macs, seed) for seed in range(RESPLITS)]).T


def fitted_once(
    guarantee: RiskGuarantee, scores: Scores, truth: NDArray[np.int64], macs: list[int], seed: int
) -> tuple[float, float]:
    """Return the pool's risk and mean cost under thresholds fitted to one draw from it."""
    drawn = np.random.default_rng(seed).integers(0, len(truth), len(truth))
    sample = Scores(scores.confidence[:, drawn], scores.label[:, drawn])
    thresholds = np.array(fit_thresholds(sample, truth[drawn], macs, guarantee, "").values, dtype=np.float32)
    risk = RISKS[guarantee.risk](scores, decide(scores, thresholds), truth).mean()
    return float(risk), describe(scores, truth, macs, thresholds).cost_ratio


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a line of the table."""
    return (
        row["risk"],
        f"{row['epsilon']:.1%}",
        row["method"],
        "shared" if row["shared"] else "per exit",
        f"{row['violation_rate']:.1%}",
        f"<= {row['delta']:.0%}" if row["delta"] else "on average",
        f"{row['mean_risk']:.2%}",
        f"{row['mean_macs_ratio']:.1%}",
        f"{row['naive_mean_macs_ratio']:.1%}, broken {row['naive_violation_rate']:.0%}",
    )
