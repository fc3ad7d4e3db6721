"""Thresholds with a statistical guarantee: the largest saving whose risk is certified to be within a limit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration.candidates import Certificate, describe_candidate, spread_over_costs
from calibration.operating_points import operating_point_of, operating_points, threshold_for_count
from calibration.sequences import FixedSequence, matched_sequence, shared_sequence
from edge.bundle.manifest import Candidate, Thresholds
from edge.bundle.sample_split import TUNING_SHARE, tuning_and_certification
from edge.decision import NEVER, Scores, decide
from edge.errors import ThresholdError
from edge.risk import (
    HIGH_PROBABILITY_METHODS,
    MAX_SEARCHED_SAMPLES,
    PROCEDURES,
    RISKS,
    CandidateLosses,
    LazyLosses,
    certifies_lossless,
    min_samples,
)

DEFAULT_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class RiskGuarantee:
    """A bound on the risk of early exits for samples the thresholds were not fitted to."""

    risk: Literal["accuracy_gap", "disagreement"] = "accuracy_gap"
    """Accuracy lost against the last exit alone, or share of predictions that differ from the last exit's."""
    limit: float = 0.005
    method: Literal["exact", "betting", "hoeffding-bentkus", "expectation", "none"] = "exact"
    """Procedure that certifies the limit: see `edge.risk`."""
    confidence_level: float = DEFAULT_CONFIDENCE
    """Probability with which the limit holds, for the first three methods."""
    shared: bool = False
    """Use one threshold for all exits. With a threshold per exit, `TUNING_SHARE` of the samples tune the candidates and
    the others certify them; shared candidates need no tuning, so all samples certify."""

    @property
    def is_tuned(self) -> bool:
        """True if some samples tune the candidates and the others certify them."""
        return not self.shared and self.method != "none"

    @property
    def delta(self) -> float:
        """Probability with which the limit may be exceeded."""
        return 1 - self.confidence_level

    @property
    def bound_delta(self) -> float:
        """Probability with which a candidate's bound on the disagreement may be exceeded."""
        return self.delta if self.method in HIGH_PROBABILITY_METHODS else 1 - DEFAULT_CONFIDENCE


def fit_thresholds(
    scores: Scores, truth: NDArray[np.int64], costs: Sequence[float], guarantee: RiskGuarantee, split: str
) -> Thresholds:
    """Return the thresholds with the largest saving that are certified.

    Args:
        scores: Every exit's confidence and label on the threshold-fitting split, as the segments computed them.
        truth: True labels, shape (samples,).
        costs: Multiply-accumulates of each segment.
        guarantee: The guarantee to certify.
        split: Fingerprint of the split, for the manifest.

    Raises:
        ThresholdError: the guarantee is invalid, the scores belong to another network, or the samples are too few.
    """
    return fit_all_precisions({"": scores}, truth, costs, guarantee, split)[""]


def fit_all_precisions(
    scores: Mapping[str, Scores], truth: NDArray[np.int64], costs: Sequence[float], guarantee: RiskGuarantee, split: str
) -> dict[str, Thresholds]:
    """Return thresholds for each precision: the largest saving that is certified for all of them.

    Each precision has candidates of its own, matched so that a frame takes the same exit in every precision: by equal
    odds of disagreement, or, without a certificate, by equally many samples that reach them. Each precision is
    certified on its own scores.

    Args:
        scores: Scores of each precision on the threshold-fitting split.
        truth: True labels, shape (samples,).
        costs: Multiply-accumulates of each segment.
        guarantee: The guarantee to certify.
        split: Fingerprint of the split, for the manifest.

    Raises:
        ThresholdError: the guarantee is invalid, the scores belong to another network, or the samples are too few.
    """
    for precision_scores in scores.values():
        check_scores(precision_scores, truth, costs)
    check_guarantee(guarantee, len(truth), len(costs))
    if len(costs) == 1:
        candidates: dict[str, tuple[Candidate, ...]] = dict.fromkeys(scores, (Candidate((), 0.0, 0.0, 1.0),))
    else:
        candidates = _fit_candidates(scores, truth, costs, guarantee)
    level = guarantee.confidence_level if guarantee.method in HIGH_PROBABILITY_METHODS else None
    fit = (guarantee.risk, guarantee.limit, guarantee.method, level, len(truth), split)
    return {name: Thresholds(fitted[-1].values, *fit, fitted) for name, fitted in candidates.items()}


def match_quantiles(candidates: FixedSequence, tuned: Scores, other: Scores) -> FixedSequence:
    """Return thresholds for another precision that equally many of its samples reach.

    Args:
        candidates: Thresholds for the precision they were tuned on.
        tuned: Scores of that precision.
        other: Scores of the other precision, for the same samples.
    """
    ranked = -np.sort(-other.confidence, axis=1)
    matched = np.empty_like(candidates)
    for matched_thresholds, thresholds in zip(matched, candidates, strict=True):
        counts = (tuned.confidence[:-1] >= thresholds[:, None]).sum(axis=1)
        matched_thresholds[:] = [threshold_for_count(ranked[k], count) for k, count in enumerate(counts)]
    return matched


def check_scores(scores: Scores, truth: NDArray[np.int64], costs: Sequence[float]) -> None:
    """Check that scores, labels and costs have matching shapes, and that all confidences are valid.

    Raises:
        ThresholdError: the shapes differ, there are no samples, or a confidence is NaN or out of range.
    """
    if scores.confidence.shape != (len(costs), len(truth)) or scores.label.shape != (len(costs), len(truth)):
        raise ThresholdError(
            f"the scores have shape {scores.confidence.shape} (exits, samples), but there are {len(costs)} exits and "
            f"{len(truth)} labels; record them again with this bundle"
        )
    if not len(truth):
        raise ThresholdError("there are no samples to fit thresholds to; record scores of labelled images first")
    invalid = ~((scores.confidence >= 0) & (scores.confidence < NEVER))
    for exit_index, sample in np.argwhere(invalid)[:1]:
        raise ThresholdError(
            f"{invalid.any(axis=0).sum()} of {len(truth)} samples have invalid confidences, the first of them "
            f"{scores.confidence[exit_index, sample]} at exit {exit_index}: the network computes NaN or infinity; use "
            "another precision, or train the network again"
        )


def _fit_candidates(
    scores: Mapping[str, Scores], truth: NDArray[np.int64], costs: Sequence[float], guarantee: RiskGuarantee
) -> dict[str, tuple[Candidate, ...]]:
    """Tune thresholds on one split, certify them on the other, and return candidates up to the cheapest certified."""
    tuning, certification = _tuning_and_certification(len(truth), guarantee)
    candidates = _tune({name: each.select(tuning) for name, each in scores.items()}, truth[tuning], costs, guarantee)
    tuned, sequence = next(iter(scores.values())), next(iter(candidates.values()))
    certified = np.ones(len(sequence), dtype=bool)
    for name, precision_scores in scores.items():
        losses = _losses(precision_scores.select(certification), truth[certification], candidates[name], guarantee)
        certified &= PROCEDURES[guarantee.method](losses, guarantee.limit, guarantee.delta)
    indices = np.flatnonzero(certified)
    points = [operating_point_of(tuned, truth, costs, sequence[index]) for index in indices]
    selected, certificate = indices[spread_over_costs(points)], None
    if guarantee.method == "none":
        selected = selected[-1:]
    else:
        # Which thresholds are selected depends on the samples, so the bounds hold for all candidates tested.
        certificate = Certificate(guarantee.limit, certification, guarantee.bound_delta / len(sequence))
    return {
        name: tuple(describe_candidate(other, truth, costs, candidates[name][index], certificate) for index in selected)
        for name, other in scores.items()
    }


def _tuning_and_certification(samples: int, guarantee: RiskGuarantee) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of the tuning split and of the certification split, shuffled; they may be the same."""
    tuning, certification = tuning_and_certification(samples)
    if guarantee.is_tuned:
        return tuning, certification
    everything = np.concatenate([tuning, certification])
    return everything, everything


def _tune(
    scores: Mapping[str, Scores], truth: NDArray[np.int64], costs: Sequence[float], guarantee: RiskGuarantee
) -> dict[str, FixedSequence]:
    """Return each precision's candidates; those of equal indices have nearly the same operating point.

    Without a certificate, they are the best trade-offs on the samples.
    """
    if guarantee.shared:
        return dict.fromkeys(scores, shared_sequence(len(costs) - 1))
    if guarantee.method != "none":
        return {name: matched_sequence(each) for name, each in scores.items()}
    tuned = next(iter(scores.values()))
    target = truth if guarantee.risk == "accuracy_gap" else tuned.label[-1].astype(np.int64)
    points = operating_points(tuned, target, costs)
    sequence = np.array([point.thresholds for point in points], dtype=np.float32)
    return {
        name: sequence if each is tuned else match_quantiles(sequence, tuned, each) for name, each in scores.items()
    }


def _losses(
    scores: Scores, truth: NDArray[np.int64], candidates: FixedSequence, guarantee: RiskGuarantee
) -> CandidateLosses:
    """Return every sample's loss under each candidate."""
    risk = RISKS[guarantee.risk]
    return LazyLosses(lambda thresholds: risk(scores, decide(scores, thresholds), truth), candidates)


def check_guarantee(guarantee: RiskGuarantee, samples: int, exits: int) -> None:
    """Check that a guarantee is valid, and that so many samples can support it.

    They do for any scores, since exits that are never taken cost nothing. One exit needs no samples.

    Raises:
        ThresholdError: the guarantee is invalid, or the samples are too few.
    """
    if not 0 <= guarantee.limit < 1 or (guarantee.limit == 0 and guarantee.method != "none"):
        raise ThresholdError(
            f"the limit of the risk is {guarantee.limit}; give a fraction above 0 and below 1, such as 0.005"
        )
    check_confidence_level(guarantee.confidence_level)
    certification = len(_tuning_and_certification(samples, guarantee)[1])
    certify = PROCEDURES[guarantee.method]
    if exits > 1 and not certifies_lossless(certify, certification, guarantee.limit, guarantee.delta):
        raise ThresholdError(_too_few_samples(samples, guarantee))


def check_confidence_level(level: float) -> None:
    """Check a guarantee's confidence level.

    Raises:
        ThresholdError: it is not a fraction from 0.5 up to 1.
    """
    if not 0.5 <= level < 1:
        raise ThresholdError(f"the confidence level is {level}; give a fraction from 0.5 up to 1, such as 0.95")


def samples_needed(guarantee: RiskGuarantee) -> int | None:
    """Return the smallest number of samples with which a guarantee can be given; None if it is above a million."""
    certification = min_samples(PROCEDURES[guarantee.method], guarantee.limit, guarantee.delta)
    if certification is None:
        return None
    return math.ceil(certification / (1 - TUNING_SHARE)) if guarantee.is_tuned else certification


def _too_few_samples(samples: int, guarantee: RiskGuarantee) -> str:
    needed = samples_needed(guarantee) or f"more than {MAX_SEARCHED_SAMPLES}"
    weaker = "none" if guarantee.method == "expectation" else "expectation or none"
    return (
        f"{samples} samples are too few to guarantee a risk of at most {guarantee.limit:g} with the method "
        f"{guarantee.method!r}, which needs {needed}; bring more images, allow a higher risk (--limit), or choose a "
        f"weaker guarantee (--method {weaker})"
    )
