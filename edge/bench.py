"""Measuring on this machine: each exit forced, the real mix, and the whole network as one engine.

Every time is from the frame being there to the decision being visible to the host: preprocessing, the segments
that really ran, and the decision. All candidates take turns frame by frame in one process, so that whatever
disturbs the machine disturbs them alike.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Protocol

import numpy as np

from edge.bundle import Bundle
from edge.classifier import Classifier
from edge.decision import NEVER
from edge.engines.cache import load_engines
from edge.preprocess import Frame
from edge.protocols import Backend
from edge.statistics import Latency, latency_from_ms

WARM_UP_FRAMES = 20


class Candidate(Protocol):
    """A way to classify."""

    def __call__(self, frame: Frame) -> int:
        """Classify a frame and return the label."""

    def close(self) -> None:
        """Let go of the memory; may be called twice."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One way of classifying, over all frames."""

    latency_ms: Latency
    accuracy: float | None
    """None where the frames have no labels."""
    exit_shares: tuple[float, ...]


class EarlyExit:
    """The chain with given thresholds; counts the exits it takes."""

    def __init__(self, classifier: Classifier, thresholds: Sequence[float] | None = None) -> None:
        """Give the chain a slot of its own."""
        self._classifier = classifier.with_thresholds(classifier.thresholds if thresholds is None else thresholds)
        self.exits = np.zeros(len(classifier.engines), dtype=np.int64)

    def __call__(self, frame: Frame) -> int:
        """Classify a frame."""
        prediction = self._classifier.classify(frame)
        self.exits[prediction.exit_index] += 1
        return prediction.label

    def close(self) -> None:
        """Let go of the slot; may be called twice."""
        self._classifier.close()


class WholeNetwork:
    """The network without early exits, as one engine: what early exits are measured against."""

    def __init__(self, bundle: Bundle, precision: str, backend: Backend) -> None:
        """Build or load the engine and bind it."""
        spec = bundle.precision(precision)
        alone = replace(
            spec,
            segments=(spec.whole,),
            thresholds=replace(spec.thresholds, values=()),
            temperatures=spec.temperatures[-1:],
        )
        self._classifier = Classifier(
            input_spec=bundle.manifest.input,
            precision=alone,
            engines=load_engines(bundle.path, alone.segments, backend),
            make_slot=backend.make_slot,
        )

    def __call__(self, frame: Frame) -> int:
        """Classify a frame."""
        return self._classifier.classify(frame).label

    def close(self) -> None:
        """Let go of the slot; may be called twice."""
        self._classifier.close()


def candidates_of(bundle: Bundle, precision: str, backend: Backend) -> dict[str, Candidate]:
    """Return what to measure of a bundle: `whole`, `early exit` and `exit k forced` for each exit.

    Raises:
        BundleError: the bundle does not have this precision.
        EngineError: an engine cannot be built or run here.
    """
    classifier = Classifier.from_bundle(bundle, precision, backend)
    exits = len(classifier.engines)
    candidates: dict[str, Candidate] = {
        "whole": WholeNetwork(bundle, precision, backend),
        "early exit": EarlyExit(classifier),
    }
    for k in range(exits):
        candidates[f"exit {k} forced"] = EarlyExit(classifier, forced(k, exits))
    return candidates


def forced(exit_index: int, exits: int) -> list[float]:
    """Return thresholds with which every frame takes this exit."""
    return [NEVER if k < exit_index else 0.0 for k in range(exits - 1)]


def measure_precision(
    bundle: Bundle, precision: str, backend: Backend, frames: Iterable[Frame], labels: Sequence[int] | None
) -> dict[str, Measured]:
    """Measure all candidates of a bundle, and let go of them.

    Raises:
        BundleError: the bundle does not have this precision.
        EngineError: an engine cannot be built or run here.
    """
    candidates = candidates_of(bundle, precision, backend)
    with ExitStack() as stack:
        for candidate in candidates.values():
            stack.callback(candidate.close)
        return measure(candidates, frames, labels)


def measure(
    candidates: Mapping[str, Candidate], frames: Iterable[Frame], labels: Sequence[int] | None
) -> dict[str, Measured]:
    """Run all candidates on each frame, one after the other, and time each; the first frames warm up."""
    frames = iter(frames)
    warm_up = list(itertools.islice(frames, WARM_UP_FRAMES))
    for frame in warm_up:
        for candidate in candidates.values():
            candidate(frame)
    for candidate in candidates.values():
        if isinstance(candidate, EarlyExit):
            candidate.exits[:] = 0
    times: dict[str, list[float]] = {name: [] for name in candidates}
    answers: dict[str, list[int]] = {name: [] for name in candidates}
    turns = list(candidates.items())
    for frame in itertools.chain(warm_up, frames):
        turns = [*turns[1:], turns[0]]  # who comes first finds the frame in no cache
        for name, candidate in turns:
            started = perf_counter_ns()
            answer = candidate(frame)
            times[name].append((perf_counter_ns() - started) / 1e6)
            answers[name].append(answer)
    return {name: _measured(candidate, times[name], answers[name], labels) for name, candidate in candidates.items()}


def _measured(
    candidate: Candidate, times_ms: list[float], answers: list[int], labels: Sequence[int] | None
) -> Measured:
    accuracy = None if labels is None else float((np.array(answers) == np.array(labels)).mean())
    shares = candidate.exits / candidate.exits.sum() if isinstance(candidate, EarlyExit) else np.zeros(0)
    return Measured(latency_from_ms(times_ms), accuracy, tuple(shares.tolist()))
