"""Latency of a bundle: each exit forced, the real mix, and the whole network as one engine.

Every time is from the frame being available to the decision being visible on the host: preprocessing, the segments that
really ran, and the decision.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.bundle.bundle import Bundle
from edge.decision import NEVER, Prediction
from edge.engines.base import Backend
from edge.errors import BundleError
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier, load_whole_network
from edge.measure.control import control_loop
from edge.measure.interleave import LEADING_ITEMS, Timed, interleave
from edge.measure.latency import Latency, latency_from_ms
from edge.measure.launches import LAUNCHES, launch
from edge.progress import OnProgress, ignore_progress, track

if TYPE_CHECKING:
    from edge.cuda.autotune import Tuning

WARM_UP_FRAMES = 20
TURN_FRAMES = 20
"""Frames that a classifier has in a turn, one after the other as in a stream."""
WHOLE, EARLY_EXIT = "whole", "early_exit"


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
    beside: dict[str, Measurement]
    """Other bundles with their thresholds, by name."""
    control_ms: Latency
    """The control loop, which took turns with the classifiers."""
    tunings: "tuple[Tuning, ...]" = ()
    """How a GPU transferred and waited for frames in each process, chosen by timing; empty on the CPU."""

    def by_workload(self) -> dict[str, Measurement]:
        """Return the measurements of all classifiers by workload."""
        names = workloads(len(self.per_exit), self.beside)
        return dict(zip(names, (self.whole, self.early_exit, *self.per_exit, *self.beside.values()), strict=True))


def workloads(exits: int, beside: Iterable[str] = ()) -> list[str]:
    """Return the names of the workloads of a bundle with this number of exits, in the order of `BenchResult`."""
    return [WHOLE, EARLY_EXIT, *map(exit_workload, range(exits)), *(f"beside {name}" for name in beside)]


def exit_workload(exit_index: int) -> str:
    """Return the name of the workload that forces an exit."""
    return f"exit_{exit_index}"


def classifier_name(workload: str) -> str:
    """Return the name of a workload's classifier for people."""
    name = workload if workload.startswith("beside ") else workload.replace("_", " ")
    return f"{name} forced" if name.startswith("exit ") else name


@dataclass(frozen=True, slots=True)
class Measurements:
    """Classifiers and the control loop, measured in turns."""

    classifiers: tuple[Measurement, ...]
    control_ms: Latency


class Series(NamedTuple):
    """Times and predictions of one classifier, frame by frame."""

    times_ms: NDArray[np.float64]
    label_index: NDArray[np.intp]
    exit_index: NDArray[np.intp]


class Turns(NamedTuple):
    """Series of all classifiers that took turns, and the times of the control loop."""

    series: list[Series]
    control_ms: NDArray[np.float64]
    tuning: "Tuning | None" = None


@dataclass(frozen=True, slots=True)
class BenchClassifiers:
    """The classifiers that `bench` compares, in the order of `BenchResult`."""

    whole: Classifier
    early_exit: Classifier
    per_exit: tuple[Classifier, ...]
    beside: tuple[Classifier, ...]

    def __iter__(self) -> Iterator[Classifier]:
        """Iterate over all of them."""
        return iter((self.whole, self.early_exit, *self.per_exit, *self.beside))


@contextmanager
def bench_classifiers(
    bundle: Bundle,
    precision: str,
    backend: Backend,
    beside: Sequence[Bundle] = (),
    on_progress: OnProgress = ignore_progress,
) -> Iterator[BenchClassifiers]:
    """Load the classifiers to compare, and close them at the end.

    Raises:
        BundleError: a bundle does not have this precision.
        EngineError: an engine cannot be built or run here.
    """
    with ExitStack() as stack:

        def opened(classifier: Classifier) -> Classifier:
            stack.callback(classifier.close)
            return classifier

        chain = opened(load_classifier(bundle, precision, backend, on_progress=on_progress))
        exits = chain.chain.exits
        yield BenchClassifiers(
            whole=opened(load_whole_network(bundle, precision, backend, on_progress)),
            early_exit=chain,
            per_exit=tuple(opened(chain.with_thresholds(thresholds_for_exit(k, exits))) for k in range(exits)),
            beside=tuple(
                opened(load_classifier(other, precision, backend, on_progress=on_progress)) for other in beside
            ),
        )


def bench(
    bundle: Bundle,
    precision: str,
    backend: Backend,
    frames: Sequence[Frame],
    labels: Sequence[int] | None,
    beside: Mapping[str, Bundle] | None = None,
    on_progress: OnProgress = ignore_progress,
) -> BenchResult:
    """Measure one precision of a bundle, in several processes one after the other.

    Args:
        bundle: The bundle.
        precision: One of its precisions.
        backend: The library to run it with.
        frames: Frames to classify; each process classifies all of them.
        labels: Their true classes, where known.
        beside: Other bundles with the same labels that take turns with it, by name.
        on_progress: Receives the progress.

    Raises:
        BundleError: a bundle does not have this precision, or has other labels.
        EngineError: an engine cannot be built or run here.
    """
    others = dict(beside or {})
    for other in others.values():
        _check_same_task(bundle, other)
    with bench_classifiers(bundle, precision, backend, tuple(others.values()), on_progress) as classifiers:
        exits = [classifier.chain.exits for classifier in classifiers]
    launches = [
        launch(bench_once, bundle, precision, backend, frames, tuple(others.values()), seed)
        for seed in track(range(LAUNCHES), f"measuring {precision}", on_progress)
    ]
    measured = summarise(launches, exits, labels)
    whole, early_exit, *rest = measured.classifiers
    per_exit, alone = rest[: exits[1]], rest[exits[1] :]
    named = dict(zip(others, alone, strict=True))
    tunings = tuple(each.tuning for each in launches if each.tuning is not None)
    return BenchResult(whole, early_exit, tuple(per_exit), named, measured.control_ms, tunings)


def bench_once(
    bundle: Bundle,
    precision: str,
    backend: Backend,
    frames: Sequence[Frame],
    beside: Sequence[Bundle] = (),
    seed: int = 0,
) -> Turns:
    """Load the classifiers that `bench` compares and time them in this process."""
    with bench_classifiers(bundle, precision, backend, beside) as classifiers:
        return take_turns(list(classifiers), frames, seed)._replace(tuning=classifiers.early_exit.tuning)


def measure(classifiers: Sequence[Classifier], frames: Iterable[Frame], labels: Sequence[int] | None) -> Measurements:
    """Measure classifiers and the control loop in this process."""
    turns = take_turns(classifiers, frames)
    return summarise([turns], [classifier.chain.exits for classifier in classifiers], labels)


def take_turns(classifiers: Sequence[Classifier], frames: Iterable[Frame], seed: int = 0) -> Turns:
    """Time classifiers and the control loop, which take turns of `TURN_FRAMES`.

    The first frames also run beforehand, to warm up.
    """
    frames = iter(frames)
    warm_up = list(itertools.islice(frames, WARM_UP_FRAMES))
    calls: list[Callable[[Frame], Any]] = [*(classifier.predict for classifier in classifiers), _run_control_loop]
    interleave(calls, warm_up)
    *timed, control = interleave(
        calls, itertools.chain(warm_up, frames), seed, block=TURN_FRAMES, leading=LEADING_ITEMS
    )
    return Turns([_series(each) for each in timed], control.times_ms)


def summarise(launches: Sequence[Turns], exits: Sequence[int], labels: Sequence[int] | None) -> Measurements:
    """Return the measurements of all launches together.

    Args:
        launches: Turns of the same classifiers on the same frames.
        exits: Number of exits of each classifier.
        labels: True classes of the frames, where known.
    """
    truth = None if labels is None else np.tile(labels, len(launches))
    series = [
        Series(*map(np.concatenate, zip(*parts, strict=True)))
        for parts in zip(*(each.series for each in launches), strict=True)
    ]
    measurements = (_measurement(each, count, truth) for each, count in zip(series, exits, strict=True))
    return Measurements(tuple(measurements), latency_from_ms(np.concatenate([each.control_ms for each in launches])))


def thresholds_for_exit(exit_index: int, exits: int) -> list[float]:
    """Return thresholds with which every frame takes this exit."""
    return [NEVER if k < exit_index else 0.0 for k in range(exits - 1)]


def _check_same_task(bundle: Bundle, other: Bundle) -> None:
    ours, theirs = bundle.manifest, other.manifest
    if (ours.labels, ours.input.kind) != (theirs.labels, theirs.input.kind):
        raise BundleError(
            f"{other.path} has other labels or another kind of input than {bundle.path}; compare bundles of one dataset"
        )


def _run_control_loop(_: Frame) -> None:
    control_loop()


def _series(timed: Timed[Prediction]) -> Series:
    taken = [(prediction.label_index, prediction.exit_index) for prediction in timed.results]
    label_index, exit_index = np.array(taken, dtype=np.intp).reshape(-1, 2).T
    return Series(timed.times_ms, label_index, exit_index)


def _measurement(series: Series, exits: int, labels: NDArray[np.intp] | None) -> Measurement:
    accuracy = None if labels is None else float((series.label_index == labels).mean())
    shares = np.bincount(series.exit_index, minlength=exits) / len(series.exit_index)
    return Measurement(latency_from_ms(series.times_ms), accuracy, tuple(shares.tolist()))
