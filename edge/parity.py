"""Two ways of running a bundle, compared exit by exit: engines against the trained fp32 network, or one another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle, Reference, read_reference
from edge.classifier import Classifier
from edge.console import tracked
from edge.decision import Scores, decide, scores_from_logits
from edge.errors import BundleError
from edge.protocols import Backend
from edge.recording import Recording, record


class Tolerance(NamedTuple):
    """How far engines may be from what they are held to at any exit, over the reference samples."""

    max_abs_logit_error: float
    top1_agreement: float
    exit_index_agreement: float
    exit_share_drift: float
    accuracy_loss: float


TOLERANCES = {
    "fp32": Tolerance(1e-3, 0.999, 0.999, 0.002, 0.001),
    "fp16": Tolerance(0.1, 0.998, 0.995, 0.005, 0.002),
    "int8": Tolerance(float("inf"), 0.993, 0.97, 0.02, 0.003),
}
TOLERANCES["auto"] = TOLERANCES["int8"]
"""Accuracy and shares as fractions. int8 logits may differ by any amount that changes no answer."""
ROUNDING = 1e-9
TRAINED = "the trained network"
"""What engines are held to first; later backends are also held to the first one, by its name."""


class Side(NamedTuple):
    """One side of a comparison: a backend's name or `TRAINED`, and what its exits said of the samples."""

    name: str
    recording: Recording

    @staticmethod
    def from_logits(name: str, logits: NDArray[np.float32]) -> "Side":
        """Return a side of which only the logits are known, shape (exits, samples, classes)."""
        return Side(name, Recording(logits, scores_from_logits(logits)))


@dataclass(frozen=True, slots=True)
class ExitParity:
    """One exit, engines against what they are held to, the reference."""

    accuracy: float
    reference_accuracy: float
    top1_agreement: float
    exit_index_agreement: float
    """Share of samples on which both agree whether to take this exit, thresholds the same."""
    exit_share: float
    exit_share_drift: float
    max_abs_logit_error: float
    mean_abs_logit_error: float


@dataclass(frozen=True, slots=True)
class Parity:
    """All exits of one precision on one backend, against one reference."""

    precision: str
    backend: str
    against: str
    """The reference: `TRAINED`, or the name of another backend."""
    samples: int
    exit_index_agreement: float
    """Share of samples that leave at the same exit."""
    exits: tuple[ExitParity, ...]
    failures: tuple[str, ...]
    """What is beyond tolerance, in words; empty where all is well."""

    @property
    def passed(self) -> bool:
        """Whether everything is within tolerance."""
        return not self.failures

    @property
    def first_diverging(self) -> int | None:
        """The first segment whose exit is beyond tolerance: those before it are as they should be.

        Where only all exits together are, the one whose decisions agree least.
        """
        if self.passed:
            return None
        exits = range(len(self.exits))
        alone = [k for k in exits if any(failure.startswith(f"exit {k}:") for failure in self.failures)]
        return alone[0] if alone else min(exits, key=lambda k: self.exits[k].exit_index_agreement)


def verify(
    bundle: Bundle, precision: str, backends: Sequence[Backend], references: Path | None = None
) -> tuple[Parity, ...]:
    """Run reference samples through engines and compare what they say, as `pairs` says.

    Args:
        bundle: What to verify.
        precision: Of its engines.
        backends: What builds and runs them.
        references: File of `python -m compile --references`; None for the samples in the bundle.

    Raises:
        BundleError: the bundle does not have this precision, or the reference samples are of another network.
        EngineError: an engine cannot be built or run here.
    """
    thresholds = bundle.precision(precision).thresholds.values
    reference = bundle.reference() if references is None else read_reference(references)
    _check_fits(bundle, reference, references or bundle.path / bundle.manifest.reference)
    sides = {TRAINED: Side.from_logits(TRAINED, reference.logits)}
    classifiers = {one.name: Classifier.from_bundle(bundle, precision, one) for one in backends}  # all, or none runs
    for name, classifier in classifiers.items():
        recording = record(classifier, tracked(reference.frames, f"verifying {precision} on {name}"))
        sides[name] = Side(name, recording)
    compared = pairs([backend.name for backend in backends])
    return tuple(
        compare(precision, sides[name], sides[against], reference.labels, thresholds) for name, against in compared
    )


def pairs(backends: Sequence[str]) -> list[tuple[str, str]]:
    """Return which backend is compared with what: each with the trained network, later ones with the first as well.

    A fault that the first shares with a later one is then seen against the trained network only, as what quantisation
    changes is; an engine's own fault is seen against the other engine, too. A backend named twice is there once.
    """
    return [
        (name, held_to) for name in dict.fromkeys(backends) for held_to in (TRAINED, backends[0]) if name != held_to
    ]


def _check_fits(bundle: Bundle, reference: Reference, file: Path) -> None:
    exits, classes, samples = len(bundle.manifest.exits), len(bundle.manifest.labels), len(reference.frames)
    expected, labels = (exits, samples, classes), reference.labels
    if not samples:
        raise BundleError(f"{file} has no samples to compare on; write it with `python -m compile --references`")
    if reference.logits.shape != expected or labels.shape != (samples,):
        raise BundleError(
            f"{file} has {samples} frames, labels of shape {labels.shape} and logits of shape "
            f"{reference.logits.shape}, not {expected}: it is of another network; "
            "write it with `python -m compile --references` together with this bundle"
        )


def compare(
    precision: str, found: Side, reference: Side, labels: NDArray[np.int64], thresholds: Sequence[float]
) -> Parity:
    """Compare a side with the one it is held to, both decided with the same thresholds."""
    limits = np.asarray(thresholds, dtype=np.float32)
    scores, expected = found.recording.scores, reference.recording.scores
    exit_index, expected_exit = decide(scores, limits).exit_index, decide(expected, limits).exit_index
    errors = _logit_errors(found.recording.logits, reference.recording.logits)
    exits = []
    for k in range(len(errors)):
        share, expected_share = float((exit_index == k).mean()), float((expected_exit == k).mean())
        exits.append(
            ExitParity(
                accuracy=float((scores.label[k] == labels).mean()),
                reference_accuracy=float((expected.label[k] == labels).mean()),
                top1_agreement=float((scores.label[k] == expected.label[k]).mean()),
                exit_index_agreement=_exit_agreement(scores, expected, limits, k),
                exit_share=share,
                exit_share_drift=abs(share - expected_share),
                max_abs_logit_error=float(errors[k].max()),
                mean_abs_logit_error=float(errors[k].mean()),
            )
        )
    agreement = float((exit_index == expected_exit).mean())
    failures = _failures(TOLERANCES[precision], exits, agreement)
    return Parity(precision, found.name, reference.name, len(labels), agreement, tuple(exits), failures)


def _logit_errors(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how far logits are apart: nothing where both are the same or no number, infinitely where one is none."""
    alike = (found == expected) | (np.isnan(found) & np.isnan(expected))
    errors = np.abs(np.subtract(found, expected, where=~alike, out=np.zeros_like(found)))
    return np.where(np.isnan(errors), np.float32(np.inf), errors)


def _exit_agreement(found: Scores, expected: Scores, thresholds: np.ndarray, k: int) -> float:
    if k == len(thresholds):
        return 1.0
    return float(((found.confidence[k] >= thresholds[k]) == (expected.confidence[k] >= thresholds[k])).mean())


def _failures(limit: Tolerance, exits: Sequence[ExitParity], agreement: float) -> tuple[str, ...]:
    checks = [("exit index agreement", agreement, ">=", limit.exit_index_agreement)]
    for k, found in enumerate(exits):
        loss = found.reference_accuracy - found.accuracy
        checks += [
            (f"exit {k}: largest logit error", found.max_abs_logit_error, "<=", limit.max_abs_logit_error),
            (f"exit {k}: top-1 agreement", found.top1_agreement, ">=", limit.top1_agreement),
            (f"exit {k}: decision agreement", found.exit_index_agreement, ">=", limit.exit_index_agreement),
            (f"exit {k}: exit share drift", found.exit_share_drift, "<=", limit.exit_share_drift),
            (f"exit {k}: accuracy loss", loss, "<=", limit.accuracy_loss),
        ]
    return tuple(
        f"{what} is {value:.4g}, must be {relation} {bound:.4g}"
        for what, value, relation, bound in checks
        if not (value >= bound - ROUNDING if relation == ">=" else value <= bound + ROUNDING)
    )
