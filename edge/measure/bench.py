"""Latency of a bundle: each exit forced, the real mix, and the whole network as one engine.

Every time is from the frame being available to the decision being visible on the host: preprocessing, the segments that
really ran, and the decision.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.bundle.bundle import Bundle
from edge.decision import NEVER, Prediction
from edge.engines.base import Backend
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier, load_whole_network
from edge.measure.control import control_loop
from edge.measure.interleave import Timed, interleave
from edge.measure.latency import Latency, latency_from_ms
from edge.progress import OnProgress, ignore_progress

WARM_UP_FRAMES = 20


@dataclass(frozen=True, slots=True)
class Measurement:
    """Latency, accuracy and exit shares of one classifier."""

    latency_ms: Latency
    accuracy: float | None
    """None where the frames have no labels."""
    exit_shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Measurements of one precision of a bundle."""

    whole: Measurement
    """The network without early exits, as one engine."""
    early_exit: Measurement
    """The chain with its thresholds."""
    per_exit: tuple[Measurement, ...]
    """The chain with each exit forced."""
    control_ms: Latency
    """The control loop, which took turns with the classifiers."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """Classifiers and the control loop, measured in turns."""

    classifiers: tuple[Measurement, ...]
    control_ms: Latency


@dataclass(frozen=True, slots=True)
class BenchClassifiers:
    """The classifiers that `bench` compares, in the order of `BenchResult`."""

    whole: Classifier
    early_exit: Classifier
    per_exit: tuple[Classifier, ...]

    def __iter__(self) -> Iterator[Classifier]:
        """Iterate over all of them."""
        return iter((self.whole, self.early_exit, *self.per_exit))


@contextmanager
def bench_classifiers(
    bundle: Bundle, precision: str, backend: Backend, on_progress: OnProgress = ignore_progress
) -> Iterator[BenchClassifiers]:
    """Load the classifiers to compare, and close them at the end.

    Raises:
        BundleError: the bundle does not have this precision.
        EngineError: an engine cannot be built or run here.
    """
    chain = load_classifier(bundle, precision, backend, on_progress=on_progress)
    exits = chain.chain.exits
    forced = tuple(chain.with_thresholds(thresholds_for_exit(k, exits)) for k in range(exits))
    whole = load_whole_network(bundle, precision, backend, on_progress)
    with ExitStack() as stack:
        classifiers = BenchClassifiers(whole, chain, forced)
        for classifier in classifiers:
            stack.callback(classifier.close)
        yield classifiers


def bench(
    bundle: Bundle,
    precision: str,
    backend: Backend,
    frames: Iterable[Frame],
    labels: Sequence[int] | None,
    on_progress: OnProgress = ignore_progress,
) -> BenchResult:
    """Measure one precision of a bundle.

    Args:
        bundle: The bundle.
        precision: One of its precisions.
        backend: The library to run it with.
        frames: Frames to classify.
        labels: Their true classes, where known.
        on_progress: Receives the progress of building engines.

    Raises:
        BundleError: the bundle does not have this precision.
        EngineError: an engine cannot be built or run here.
    """
    with bench_classifiers(bundle, precision, backend, on_progress) as classifiers:
        measured = measure(list(classifiers), frames, labels)
    whole, early_exit, *per_exit = measured.classifiers
    return BenchResult(whole, early_exit, tuple(per_exit), measured.control_ms)


def measure(classifiers: Sequence[Classifier], frames: Iterable[Frame], labels: Sequence[int] | None) -> Measurements:
    """Measure classifiers and the control loop, which take turns on each frame.

    The first frames also run beforehand, to warm up.
    """
    frames = iter(frames)
    warm_up = list(itertools.islice(frames, WARM_UP_FRAMES))
    calls: list[Callable[[Frame], Any]] = [*(classifier.predict for classifier in classifiers), _run_control_loop]
    interleave(calls, warm_up)
    *timed, control = interleave(calls, itertools.chain(warm_up, frames))
    measurements = (
        _measurement(series, classifier.chain.exits, labels)
        for series, classifier in zip(timed, classifiers, strict=True)
    )
    return Measurements(tuple(measurements), latency_from_ms(control.times_ms))


def thresholds_for_exit(exit_index: int, exits: int) -> list[float]:
    """Return thresholds with which every frame takes this exit."""
    return [NEVER if k < exit_index else 0.0 for k in range(exits - 1)]


def _run_control_loop(_: Frame) -> None:
    control_loop()


def _measurement(timed: Timed[Prediction], exits: int, labels: Sequence[int] | None) -> Measurement:
    predicted = np.array([prediction.label_index for prediction in timed.results])
    accuracy = None if labels is None else float((predicted == np.array(labels)).mean())
    taken = np.bincount([prediction.exit_index for prediction in timed.results], minlength=exits)
    return Measurement(latency_from_ms(timed.times_ms), accuracy, tuple((taken / taken.sum()).tolist()))
