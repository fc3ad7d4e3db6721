"""Violations of risk guarantees: thresholds are fitted to many resamples of a pool, whose own risk is the true risk."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

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
from tests.support.scores import random_scores, segment_costs

RESPLITS = 500
METHODS = ("exact", "betting", "hoeffding-bentkus", "expectation")
DELTA = 0.05
LIMITS, LIMITS_OF_FEW = {"accuracy_gap": 0.005, "disagreement": 0.02}, {"accuracy_gap": 0.02, "disagreement": 0.05}
FEW_SAMPLES = 1000
"""Fewer samples hardly support `LIMITS` with high probability."""


class Population(NamedTuple):
    """Samples to draw from, whose own risk is the true risk of thresholds fitted to those drawn."""

    name: str
    scores: Scores
    truth: NDArray[np.int64]
    macs: list[int]
    drawn: int
    """Number of samples per fit, drawn with replacement."""
    limits: dict[str, float]
    """The limit of each risk to test."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    parser.add_argument(
        "bundles", nargs="+", type=Path, metavar="BUNDLE", help="bundle whose threshold-fitting split is resampled"
    )
    parser.add_argument("--precision", default="int8", help="precision to test (default: %(default)s)")
    add_output(parser, "runs/risk.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Fit thresholds to many resamples and count violated guarantees."""
    run_risk(arguments.bundles, arguments.precision, arguments.output)
    return PASSED


def run_risk(bundles: Sequence[Path], precision: str, output: Path) -> None:
    """Write `risk.json`: how often each method violates its limit, and its cost beside fits without a guarantee."""
    recorded = (recorded_population(Bundle.open(path), precision) for path in bundles)
    rows = [row for population in (*recorded, synthetic_population()) for row in population_rows(population)]
    result = {"command": command_line(), "conditions": conditions(), "precision": precision, "rows": rows}
    write_result(output, result)
    columns = (
        "population", "risk", "limit", "method", "thresholds", "violated", "allowed", "mean risk", "mean MACs",
        "without guarantee",
    )  # fmt: skip
    print_table(f"risk guarantees, {RESPLITS} re-splits", columns, [table_row(row) for row in rows])
    log(f"wrote every row to {output}")


def recorded_population(bundle: Bundle, precision: str) -> Population:
    """Return the threshold-fitting split recorded in a bundle; each fit uses equally many samples."""
    recorded = bundle.scores(precision)
    macs, samples = [exit_.macs for exit_ in bundle.manifest.exits], len(recorded.truth)
    limits = LIMITS if samples >= FEW_SAMPLES else LIMITS_OF_FEW
    return Population(bundle.manifest.name, recorded.scores, recorded.truth, macs, samples, limits)


def synthetic_population() -> Population:
    """Return a network with many exits whose confidences mean nearly the same, which suits a shared threshold."""
    exits, samples = 5, 4000
    scores, truth = random_scores(exits, samples, seed=11)
    return Population("synthetic", scores, truth, segment_costs(exits), samples // 2, LIMITS_OF_FEW)


def population_rows(population: Population) -> list[dict[str, Any]]:
    """Return the recorded result of every guarantee on a population."""
    tested = list(guarantees(population.limits))
    task = f"{population.name}, {RESPLITS} re-splits each"
    naive = {
        guarantee: fit_resamples(guarantee, population)
        for guarantee in track(naive_guarantees(tested), f"without guarantee, {task}")
    }
    return [
        {"population": population.name, "samples": population.drawn}
        | result_row(guarantee, fit_resamples(guarantee, population), naive[replace(guarantee, method="none")])
        for guarantee in track(tested, task)
    ]


def guarantees(limits: Mapping[str, float]) -> Iterator[RiskGuarantee]:
    """Yield every guarantee to test."""
    for risk, method, shared in product(limits, METHODS, (True, False)):
        yield RiskGuarantee(risk, limits[risk], method, 1 - DELTA, shared)  # type: ignore[arg-type]  # literals of a product


def naive_guarantees(guarantees: Sequence[RiskGuarantee]) -> list[RiskGuarantee]:
    """Return the same limits fitted without certification, each once."""
    return list(dict.fromkeys(replace(guarantee, method="none") for guarantee in guarantees))


def fit_resamples(guarantee: RiskGuarantee, population: Population) -> NDArray[np.float64]:
    """Return risk and cost ratio on the population for thresholds fitted to each resample, shape (2, resamples)."""
    return np.array([fit_resample(guarantee, population, seed) for seed in range(RESPLITS)]).T


def fit_resample(guarantee: RiskGuarantee, population: Population, seed: int) -> tuple[float, float]:
    """Return risk and cost ratio on the population for thresholds fitted to one resample."""
    _, scores, truth, macs, count, _ = population
    drawn = np.random.default_rng(seed).integers(0, len(truth), count)
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
        row["population"],
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
