"""Comparison of engines with the trained fp32 network, or with those of another backend, exit by exit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.bundle.bundle import Bundle
from edge.decision import Scores, decide, scores_from_logits
from edge.engines import default_backend
from edge.engines.base import Backend
from edge.frames.base import frame_from_array
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier
from edge.inference.record import Recording, record
from edge.progress import OnProgress, ignore_progress, track


class Tolerance(NamedTuple):
    """Largest deviation from the reference at any exit, over the reference samples."""

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
"""Accuracy and shares as fractions. int8 logits may differ by any amount that changes no prediction."""
ROUNDING = 1e-9
REFERENCE = "the trained network"
"""Name of the first reference; later backends are also compared with the first backend."""


class Outputs(NamedTuple):
    """Recorded outputs, with the name of their source: a backend, or `REFERENCE`."""

    name: str
    recording: Recording

    @staticmethod
    def from_logits(name: str, logits: NDArray[np.float32]) -> "Outputs":
        """Return outputs of which only the logits are known, shape (exits, samples, classes)."""
        return Outputs(name, Recording(logits, scores_from_logits(logits)))


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure and its tolerance."""

    exit_index: int | None
    """None for figures over all exits."""
    figure: str
    value: float
    relation: Literal[">=", "<="]
    bound: float

    def __str__(self) -> str:
        where = "" if self.exit_index is None else f"exit {self.exit_index}: "
        return f"{where}{self.figure} is {self.value:.4g}, must be {self.relation} {self.bound:.4g}"

    @property
    def passed(self) -> bool:
        """True if the value is within the bound, apart from rounding."""
        if self.relation == ">=":
            return self.value >= self.bound - ROUNDING
        return self.value <= self.bound + ROUNDING


@dataclass(frozen=True, slots=True)
class ExitParity:
    """One exit compared with its reference."""

    accuracy: float
    reference_accuracy: float
    top1_agreement: float
    exit_index_agreement: float
    """Share of samples with the same decision for this exit in both, at the same thresholds."""
    exit_share: float
    exit_share_drift: float
    max_abs_logit_error: float
    mean_abs_logit_error: float


@dataclass(frozen=True, slots=True)
class Parity:
    """All exits of one precision on one backend, compared with one reference."""

    precision: str
    backend: str
    reference: str
    """`REFERENCE`, or the name of another backend."""
    samples: int
    exit_index_agreement: float
    """Share of samples that take the same exit."""
    exits: tuple[ExitParity, ...]
    failures: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """True if all figures are within tolerance."""
        return not self.failures

    @property
    def first_diverging(self) -> int | None:
        """The first segment whose exit is beyond tolerance; None where all pass.

        If only the agreement over all exits fails, the exit whose decisions agree least.
        """
        if self.passed:
            return None
        failing = [failure.exit_index for failure in self.failures if failure.exit_index is not None]
        return min(failing, default=min(range(len(self.exits)), key=lambda k: self.exits[k].exit_index_agreement))


def verify(
    bundle: Bundle,
    precision: str,
    backends: Sequence[Backend],
    references: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> tuple[Parity, ...]:
    """Run reference samples through engines and compare the outputs of each of `comparisons`.

    Args:
        bundle: The bundle to verify.
        precision: One of its precisions.
        backends: Libraries to build and run it with.
        references: File of `python -m compile --references`; None for the samples in the bundle.
        on_progress: Receives the progress of building and running.

    Raises:
        BundleError: the bundle does not have this precision, or the reference samples belong to another network.
        EngineError: an engine cannot be built or run here.
    """
    thresholds = bundle.precision(precision).thresholds.values
    samples = bundle.reference(references)
    outputs = {REFERENCE: Outputs.from_logits(REFERENCE, samples.logits)}
    frames = [frame_from_array(pixels, bundle.manifest.input.kind) for pixels in samples.frames]
    classifiers = {  # load all before the first one runs
        backend.name: load_classifier(bundle, precision, backend, on_progress=on_progress) for backend in backends
    }
    for name, classifier in classifiers.items():
        recording = record(classifier, track(frames, f"verifying {precision} on {name}", on_progress))
        outputs[name] = Outputs(name, recording)
    return tuple(
        compare(precision, outputs[name], outputs[reference], samples.labels, thresholds)
        for name, reference in comparisons([backend.name for backend in backends])
    )


def verify_classifier(
    bundle: Bundle, precision: str, classifier: Classifier, backend: str, reference: Classifier | None = None
) -> Parity:
    """Compare a loaded classifier with the trained network, or another one, on the reference samples in its bundle.

    Raises:
        BundleError: the reference samples are damaged.
        EngineError: an engine fails.
    """
    samples = bundle.reference()
    frames = [frame_from_array(pixels, bundle.manifest.input.kind) for pixels in samples.frames]
    outputs, expected = Outputs(backend, record(classifier, frames)), Outputs.from_logits(REFERENCE, samples.logits)
    if reference is not None:
        expected = Outputs(default_backend(), record(reference, frames))
    return compare(precision, outputs, expected, samples.labels, bundle.precision(precision).thresholds.values)


def comparisons(backends: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of backend and reference: each with the trained network, later ones also with the first backend.

    A difference that quantisation causes appears on every backend; a difference between backends points to the engines.
    A backend named twice is compared once.
    """
    return [
        (name, reference)
        for name in dict.fromkeys(backends)
        for reference in (REFERENCE, backends[0])
        if name != reference
    ]


def compare(
    precision: str, outputs: Outputs, reference: Outputs, labels: NDArray[np.int64], thresholds: Sequence[float]
) -> Parity:
    """Compare outputs with their reference, both decided with the same thresholds."""
    float32_thresholds = np.asarray(thresholds, dtype=np.float32)
    scores, expected = outputs.recording.scores, reference.recording.scores
    exit_index = decide(scores, float32_thresholds).exit_index
    expected_exit = decide(expected, float32_thresholds).exit_index
    errors = _logit_errors(outputs.recording.logits, reference.recording.logits)
    exits = []
    for k in range(len(errors)):
        share, expected_share = float((exit_index == k).mean()), float((expected_exit == k).mean())
        exits.append(
            ExitParity(
                accuracy=float((scores.label[k] == labels).mean()),
                reference_accuracy=float((expected.label[k] == labels).mean()),
                top1_agreement=float((scores.label[k] == expected.label[k]).mean()),
                exit_index_agreement=_exit_agreement(scores, expected, float32_thresholds, k),
                exit_share=share,
                exit_share_drift=abs(share - expected_share),
                max_abs_logit_error=float(errors[k].max()),
                mean_abs_logit_error=float(errors[k].mean()),
            )
        )
    agreement = float((exit_index == expected_exit).mean())
    failures = _failures(TOLERANCES[precision], exits, agreement)
    return Parity(precision, outputs.name, reference.name, len(labels), agreement, tuple(exits), failures)


def _logit_errors(outputs: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return absolute differences: 0 where both are equal or NaN, infinity where only one is NaN."""
    equal = (outputs == expected) | (np.isnan(outputs) & np.isnan(expected))
    errors = np.abs(np.subtract(outputs, expected, where=~equal, out=np.zeros_like(outputs)))
    return np.where(np.isnan(errors), np.float32(np.inf), errors)


def _exit_agreement(scores: Scores, expected: Scores, thresholds: NDArray[np.float32], k: int) -> float:
    if k == len(thresholds):
        return 1.0
    return float(((scores.confidence[k] >= thresholds[k]) == (expected.confidence[k] >= thresholds[k])).mean())


def _failures(limit: Tolerance, exits: Sequence[ExitParity], agreement: float) -> tuple[Comparison, ...]:
    checks = [Comparison(None, "exit index agreement", agreement, ">=", limit.exit_index_agreement)]
    for k, exit_ in enumerate(exits):
        loss = exit_.reference_accuracy - exit_.accuracy
        checks += [
            Comparison(k, "largest logit error", exit_.max_abs_logit_error, "<=", limit.max_abs_logit_error),
            Comparison(k, "top-1 agreement", exit_.top1_agreement, ">=", limit.top1_agreement),
            Comparison(k, "decision agreement", exit_.exit_index_agreement, ">=", limit.exit_index_agreement),
            Comparison(k, "exit share drift", exit_.exit_share_drift, "<=", limit.exit_share_drift),
            Comparison(k, "accuracy loss", loss, "<=", limit.accuracy_loss),
        ]
    return tuple(check for check in checks if not check.passed)
