"""Energy of a bundle: each exit forced, the real mix, and the whole network as one engine."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from edge.bundle.bundle import Bundle
from edge.engines.base import Backend
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.measure.bench import EARLY_EXIT, WHOLE, BenchResult, bench_classifiers, exit_workload, workloads
from edge.measure.cycles import Method
from edge.measure.energy import EnergyResult, measure_energy
from edge.measure.power.base import Meters
from edge.progress import OnProgress, ignore_progress


@dataclass(frozen=True, slots=True)
class ExitBalance:
    """Saving of early exits on one rail."""

    expected_mix_mj: float
    """Sum of the exits' shares times the energy of each exit forced."""
    mix_mj: float
    """Energy of the chain with its thresholds, as measured."""
    break_even_shares: tuple[float | None, ...]
    """For each early exit, the share of frames that has to leave there for the chain to cost as much as the whole
    network, if all others take the last exit; None if no share is enough."""


@dataclass(frozen=True, slots=True)
class RailBalance:
    """Comparison of early exits with the whole network on one rail."""

    gross: ExitBalance
    net: ExitBalance
    joules_per_correct_prediction: dict[str, float]
    """Gross energy per inference over accuracy, by workload; empty where the frames have no labels."""


@dataclass(frozen=True, slots=True)
class BenchEnergy:
    """Energy of one precision of a bundle."""

    energy: EnergyResult
    exit_shares: tuple[float, ...]
    """Shares of the exits in the loops of the real mix."""
    balance: dict[str, RailBalance]
    """By rail, as in `EnergyResult.rails`."""


class FrameLoop:
    """Classifies frames again and again, and counts the exits that answered."""

    def __init__(self, classifier: Classifier, frames: Sequence[Frame]) -> None:
        """Start at the first frame."""
        self._predict, self._frames = classifier.predict, cycle(frames)
        self.taken: Counter[int] = Counter()

    def __call__(self) -> None:
        """Classify the next frame."""
        self.taken[self._predict(next(self._frames)).exit_index] += 1


def bench_energy(
    bundle: Bundle,
    precision: str,
    backend: Backend,
    frames: Sequence[Frame],
    measured: BenchResult,
    meters: Meters,
    beside: Mapping[str, Bundle] | None = None,
    method: Method | None = None,
    on_progress: OnProgress = ignore_progress,
) -> BenchEnergy:
    """Measure the energy of one precision of a bundle.

    Args:
        bundle: The bundle.
        precision: One of its precisions.
        backend: The library to run it with.
        frames: Frames to classify.
        measured: Latency and accuracy of the same classifiers.
        meters: Meters to read.
        beside: The other bundles whose latency was measured, by name.
        method: Durations and repetitions.
        on_progress: Receives the progress.

    Raises:
        BundleError: the bundle does not have this precision.
        EngineError: an engine cannot be built or run here.
        UnavailableError: no rail gave usable readings.
    """
    others = dict(beside or {})
    with bench_classifiers(bundle, precision, backend, tuple(others.values()), on_progress) as classifiers:
        names = workloads(len(classifiers.per_exit), others)
        loops = {name: FrameLoop(each, frames) for name, each in zip(names, classifiers, strict=True)}
        energy = measure_energy(loops, meters, method, on_progress=on_progress)
    taken = loops[EARLY_EXIT].taken
    shares = tuple(taken[k] / taken.total() for k in range(len(classifiers.per_exit)))
    return BenchEnergy(energy, shares, {rail: _rail_balance(rail, energy, shares, measured) for rail in energy.rails})


def _rail_balance(rail: str, energy: EnergyResult, shares: Sequence[float], measured: BenchResult) -> RailBalance:
    rails = {name: workload.rails[rail] for name, workload in energy.workloads.items()}
    gross_mj = {name: rail_energy.gross_mj.mean for name, rail_energy in rails.items()}
    net_mj = {name: rail_energy.net_mj.mean for name, rail_energy in rails.items()}
    accuracies = {name: measurement.accuracy for name, measurement in measured.by_workload().items()}
    joules = {name: gross_mj[name] / 1e3 / accuracy for name, accuracy in accuracies.items() if accuracy}
    return RailBalance(exit_balance(gross_mj, shares), exit_balance(net_mj, shares), joules)


def exit_balance(energies_mj: Mapping[str, float], shares: Sequence[float]) -> ExitBalance:
    """Compare the energies of the workloads.

    Args:
        energies_mj: Energy per inference by workload.
        shares: Shares of the exits in the real mix.
    """
    exits = [energies_mj[exit_workload(k)] for k in range(len(shares))]
    return ExitBalance(
        expected_mix_mj=sum(share * energy for share, energy in zip(shares, exits, strict=True)),
        mix_mj=energies_mj[EARLY_EXIT],
        break_even_shares=tuple(break_even_share(early, exits[-1], energies_mj[WHOLE]) for early in exits[:-1]),
    )


def break_even_share(early_mj: float, last_mj: float, whole_mj: float) -> float | None:
    """Return the share `s` with `s * early + (1 - s) * last = whole`.

    0 if the chain costs less even where no frame exits early, None if it costs more even where all do.
    """
    if last_mj <= whole_mj:
        return 0.0
    if early_mj > whole_mj:
        return None
    return (last_mj - whole_mj) / (last_mj - early_mj)
