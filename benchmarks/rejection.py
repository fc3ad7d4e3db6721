"""Rejection: violations of its limit over many resamples, and the share of unknown objects that it rejects.

The pool is the threshold-fitting split of a network for digits. Each fit uses equally many samples, drawn from the pool
with replacement, so that the pool's own error is the true error. The unknown objects are letters.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.letters import letter_frames
from benchmarks.results import add_output, command_line, write_result
from calibration.rejection import REJECT_GRID, Labelled, RejectGuarantee, fit_with_rejection, outcomes
from calibration.thresholds import RiskGuarantee, fit_all_precisions, fit_thresholds
from edge.bundle.bundle import Bundle
from edge.console import PASSED, log, print_table, track
from edge.decision import Scores, accepted, decide
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import BundleError, ThresholdError
from edge.frames.base import frame_from_array
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.risk import empirical
from edge.system import conditions

RESPLITS = 500
LIMITS = (0.03, 0.05)
METHODS: tuple[Literal["betting", "hoeffding-bentkus"], ...] = ("betting", "hoeffding-bentkus")
DELTA = 0.05
GUARANTEE = RiskGuarantee(limit=0.005, method="expectation", shared=True)
"""Of the thresholds: strict, since predictions of early exits are accepted, too."""
DATASETS = ("cluttered-digits", "digits")


class Fit(NamedTuple):
    """Thresholds and the reject threshold."""

    candidates: list[tuple[float, ...]]
    """Thresholds to choose from; the last are the fitted ones."""
    reject_threshold: float


class Point(NamedTuple):
    """Behaviour of a fit on the pool and on unknown objects."""

    error: float
    """Share of wrong predictions among the accepted, with the worst of the candidates."""
    coverage: float
    """Share of accepted predictions, with the fitted thresholds."""
    unknown_rejected: float
    """Share of the unknown objects that are rejected, with the fitted thresholds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="network for digits, such as runs/demo/bundle")
    parser.add_argument("--precision", default="int8", help="precision to test (default: %(default)s)")
    add_output(parser, "runs/rejection.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Fit rejections to many resamples, count violated limits, and classify letters."""
    run_rejection(arguments.bundle, arguments.precision, arguments.output)
    return PASSED


def run_rejection(bundle_path: Path, precision: str, output: Path) -> None:
    """Write `rejection.json`: how often each limit is violated, the coverage, and the share of letters rejected.

    Raises:
        BundleError: the network was not trained on digits.
    """
    bundle = Bundle.open(bundle_path)
    recorded = bundle.scores(precision)
    pool = Labelled(recorded.scores, recorded.truth, bundle.manifest.labels)
    unknown = letter_scores(bundle, precision)
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    evaluate, task = partial(points, pool=pool, unknown=unknown, macs=macs), f"{RESPLITS} re-splits each"
    naive = {limit: evaluate(partial(fit_naive, limit)) for limit in track(LIMITS, f"without guarantee, {task}")}
    rows = [
        result_row(guarantee, evaluate(partial(fit_certified, guarantee)), naive[guarantee.limit])
        for guarantee in track(guarantees(), task)
    ]
    result = {"command": command_line(), "conditions": conditions(), "bundle": bundle.manifest.name}
    counts = {"precision": precision, "samples": len(pool.truth), "letters": unknown.label.shape[1]}
    write_result(output, result | counts | {"rows": rows})
    columns = (
        "limit",
        "method",
        "violated",
        "allowed",
        "refused",
        "mean error",
        "accepted",
        "letters rejected",
        "naive fit",
    )
    title = f"rejection by {bundle.manifest.name}, {RESPLITS} re-splits"
    print_table(title, columns, [table_row(row) for row in rows])
    log(f"wrote every row to {output}")


def guarantees() -> list[RejectGuarantee]:
    """Return every guarantee to test."""
    return [RejectGuarantee(limit, method, 1 - DELTA) for limit in LIMITS for method in METHODS]


def letter_scores(bundle: Bundle, precision: str) -> Scores:
    """Return every exit's confidence and label for letters in the style of the digits.

    Raises:
        BundleError: the network was not trained on digits.
    """
    dataset = bundle.manifest.training["settings"]["dataset"]
    if dataset not in DATASETS:
        raise BundleError(
            f"{bundle.path} was trained on {dataset}, but letters are unknown objects to networks for digits; give the "
            "bundle of `make demo`"
        )
    frames = letter_frames(bundle.manifest.input.height, is_cluttered=dataset == DATASETS[0])
    with load_classifier(bundle, precision, OnnxRuntime()) as classifier:
        return record(classifier, [frame_from_array(pixels, "image") for pixels in frames]).scores


def fit_certified(guarantee: RejectGuarantee, samples: Labelled, macs: list[int]) -> Fit | None:
    """Return thresholds and rejection with their guarantees; None if the samples do not support them."""
    fit = partial(fit_all_precisions, costs=macs, guarantee=GUARANTEE, split="")
    try:
        fitted = fit_with_rejection(fit, {"": samples.scores}, samples.truth, samples.labels, guarantee, "")[""]
    except ThresholdError:
        return None
    assert fitted.rejection is not None, "asked for"  # noqa: S101 - a guarantee was given
    candidates = [candidate.values for candidate in fitted.thresholds.candidates]
    return Fit(candidates, fitted.rejection.threshold)


def fit_naive(limit: float, samples: Labelled, macs: list[int]) -> Fit:
    """Return the thresholds and the lowest reject threshold that are within their limits on the samples themselves."""
    naive = replace(GUARANTEE, method="none")
    values = fit_thresholds(samples.scores, samples.truth, macs, naive, "").values
    within = empirical(outcomes(samples, values).losses(limit), limit, DELTA)
    lowest = np.flatnonzero(within).max(initial=0)
    return Fit([values], float(REJECT_GRID[lowest]))


def points(
    fit: Callable[[Labelled, list[int]], Fit | None], pool: Labelled, unknown: Scores, macs: list[int]
) -> list[Point | None]:
    """Return the system's behaviour with the fit to each resample."""
    fits = []
    for seed in range(RESPLITS):
        drawn = np.random.default_rng(seed).integers(0, len(pool.truth), len(pool.truth))
        fits.append(fit(pool.select(drawn), macs))
    return [None if each is None else judge(each, pool, unknown) for each in fits]


def judge(fit: Fit, pool: Labelled, unknown: Scores) -> Point:
    """Return the behaviour of thresholds and rejection on the pool and on unknown objects."""
    threshold = np.array([fit.reject_threshold], dtype=np.float32)
    last_exit = len(pool.scores.label) - 1
    errors = []
    for values in fit.candidates:
        thresholds = np.array(values, dtype=np.float32)
        decisions = decide(pool.scores, thresholds)
        [is_accepted] = accepted(decisions, last_exit, threshold, pool.labels)
        errors.append(float((decisions.label != pool.truth)[is_accepted].mean()))
    [unknown_accepted] = accepted(decide(unknown, thresholds), last_exit, threshold, pool.labels)
    return Point(max(errors), float(is_accepted.mean()), float(1 - unknown_accepted.mean()))


def result_row(
    guarantee: RejectGuarantee, certified: Sequence[Point | None], naive: Sequence[Point | None]
) -> dict[str, Any]:
    """Return the recorded result of a guarantee, beside fits to the same limit without one."""
    return {
        "method": guarantee.method,
        "epsilon": guarantee.limit,
        "delta": DELTA,
        "resplits": len(certified),
        **summary(certified, guarantee.limit),
        **{f"naive_{name}": value for name, value in summary(naive, guarantee.limit).items()},
    }


def summary(fits: Sequence[Point | None], limit: float) -> dict[str, float]:
    """Return the share of violated limits, of resamples that do not support it, and the means of the others."""
    made = [point for point in fits if point is not None]
    means = np.mean(made, axis=0).tolist() if made else [0.0] * len(Point._fields)
    return {
        "violation_rate": sum(point.error > limit for point in made) / len(fits),
        "refused_rate": 1 - len(made) / len(fits),
        **{f"mean_{name}": mean for name, mean in zip(Point._fields, means, strict=True)},
    }


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a recorded result as cells of the printed table."""
    return (
        f"{row['epsilon']:.1%}",
        row["method"],
        f"{row['violation_rate']:.1%}",
        f"<= {row['delta']:.0%}",
        f"{row['refused_rate']:.1%}",
        f"{row['mean_error']:.2%}",
        f"{row['mean_coverage']:.1%}",
        f"{row['mean_unknown_rejected']:.1%}",
        f"violated {row['naive_violation_rate']:.0%}, accepted {row['naive_mean_coverage']:.1%}",
    )
