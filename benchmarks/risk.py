"""Violations of risk guarantees: thresholds are fitted to many resamples of a pool, whose own risk is the true risk."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import add_output, command_line, write_result
from calibration.operating_points import operating_point_of
from calibration.thresholds import RiskGuarantee, fit_thresholds
from edge.bundle.bundle import Bundle
from edge.console import PASSED, log, print_table, track
from edge.decision import Scores, decide
from edge.risk import HIGH_PROBABILITY_METHODS, RISKS
from edge.system import conditions

RESPLITS = 500
LIMITS = {"accuracy_gap": 0.005, "disagreement": 0.02}
METHODS = ("exact", "betting", "hoeffding-bentkus", "expectation")
DELTA = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle whose threshold-fitting split is resampled")
    parser.add_argument("--precision", default="int8", help="precision to test (default: %(default)s)")
    add_output(parser, "runs/risk.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Fit thresholds to many resamples and count violated guarantees."""
    run_risk(arguments.bundle, arguments.precision, arguments.output)
    return PASSED


def run_risk(bundle_path: Path, precision: str, output: Path) -> None:
    """Write `risk.json`: how often each method violates its limit, and its cost relative to fits without a guarantee.

    The pool is the threshold-fitting split recorded in the bundle. Each fit uses equally many samples, drawn from the
    pool with replacement, so that the pool's own risk is the true risk.
    """
    bundle = Bundle.open(bundle_path)
    recorded = bundle.scores(precision)
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    fit = partial(fit_resamples, scores=recorded.scores, truth=recorded.truth, macs=macs)
    tested = list(guarantees())
    task = f"{RESPLITS} re-splits each"
    naive = {guarantee: fit(guarantee) for guarantee in track(naive_guarantees(tested), f"without guarantee, {task}")}
    rows = [
        result_row(guarantee, fit(guarantee), naive[replace(guarantee, method="none")])
        for guarantee in track(tested, task)
    ]
    result = {"command": command_line(), "conditions": conditions(), "bundle": bundle.manifest.name}
    write_result(output, result | {"precision": precision, "samples": len(recorded.truth), "rows": rows})
    columns = (
        "risk", "limit", "method", "thresholds", "violated", "allowed", "mean risk", "mean MACs", "without guarantee",
    )  # fmt: skip
    title = f"risk guarantees on {bundle.manifest.name}, {RESPLITS} re-splits"
    print_table(title, columns, [table_row(row) for row in rows])
    log(f"wrote every row to {output}")


def guarantees() -> Iterator[RiskGuarantee]:
    """Yield every guarantee to test."""
    for risk, method, shared in product(LIMITS, METHODS, (True, False)):
        yield RiskGuarantee(risk, LIMITS[risk], method, 1 - DELTA, shared)  # type: ignore[arg-type]  # literals of a product


def naive_guarantees(guarantees: Sequence[RiskGuarantee]) -> list[RiskGuarantee]:
    """Return the same limits fitted without certification, each once."""
    return list(dict.fromkeys(replace(guarantee, method="none") for guarantee in guarantees))


def fit_resamples(
    guarantee: RiskGuarantee, scores: Scores, truth: NDArray[np.int64], macs: list[int]
) -> NDArray[np.float64]:
    """Return risk and cost ratio on the pool for thresholds fitted to each resample, shape (2, resamples)."""
    return np.array([fit_resample(guarantee, scores, truth, macs, seed) for seed in range(RESPLITS)]).T


def fit_resample(
    guarantee: RiskGuarantee, scores: Scores, truth: NDArray[np.int64], macs: list[int], seed: int
) -> tuple[float, float]:
    """Return risk and cost ratio on the pool for thresholds fitted to one resample."""
    drawn = np.random.default_rng(seed).integers(0, len(truth), len(truth))
    thresholds = np.array(
        fit_thresholds(scores.select(drawn), truth[drawn], macs, guarantee, "").values, dtype=np.float32
    )
    risk = RISKS[guarantee.risk](scores, decide(scores, thresholds), truth).mean()
    return float(risk), operating_point_of(scores, truth, macs, thresholds).cost_ratio


def result_row(guarantee: RiskGuarantee, certified: NDArray[np.float64], naive: NDArray[np.float64]) -> dict[str, Any]:
    """Return the recorded result of a guarantee.

    Args:
        guarantee: The guarantee.
        certified: Risk and cost ratio of its fits, shape (2, resamples).
        naive: Risk and cost ratio of the fits without certification, shape (2, resamples).
    """
    (risks, ratios), (naive_risks, naive_ratios) = certified, naive
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


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a recorded result as cells of the printed table."""
    return (
        row["risk"],
        f"{row['epsilon']:.1%}",
        row["method"],
        "shared" if row["shared"] else "per exit",
        f"{row['violation_rate']:.1%}",
        f"<= {row['delta']:.0%}" if row["delta"] else "on average",
        f"{row['mean_risk']:.2%}",
        f"{row['mean_macs_ratio']:.1%}",
        f"{row['naive_mean_macs_ratio']:.1%}, violated {row['naive_violation_rate']:.0%}",
    )
