"""Energy in `edge bench`: measurement of every precision, and tables."""

import math
from collections.abc import Iterator, Mapping, Sequence

from edge.bundle.bundle import Bundle
from edge.console import log, print_table
from edge.engines.base import Backend
from edge.frames.base import Frame
from edge.measure.bench import BenchResult, classifier_name, workloads
from edge.measure.bench_energy import BenchEnergy, ExitBalance, RailBalance, bench_energy
from edge.measure.cycles import Method
from edge.measure.power.base import Meters
from edge.measure.rounds import MeanEstimate
from edge.progress import OnProgress

METHOD = Method()
COLUMNS = ("precision", "classifier", "rail", "gross mJ", "net mJ", "power mW", "idle mW", "J per correct", "valid")


def measure_precisions(
    bundle: Bundle,
    backend: Backend,
    frames: Sequence[Frame],
    beside: Mapping[str, Bundle],
    results: Mapping[str, BenchResult],
    meters: Meters,
    on_progress: OnProgress,
) -> Iterator[tuple[str, BenchEnergy]]:
    """Yield the energy of every precision whose latency was measured, once it is measured."""
    minutes = len(results) * METHOD.duration_s(len(workloads(len(bundle.manifest.exits), beside))) / 60
    log(f"measuring energy takes {minutes:.0f} min; leave the machine alone meanwhile")
    for precision, result in results.items():
        yield precision, bench_energy(bundle, precision, backend, frames, result, meters, beside, METHOD, on_progress)


def print_energy(results: Mapping[str, BenchEnergy]) -> None:
    """Print the energy per inference, the balance of early exits, the sensors, and every problem."""
    rows = [row for precision, result in results.items() for row in _rows(precision, result)]
    print_table("energy per inference, each classifier looped for seconds; net is without idle power", COLUMNS, rows)
    for precision, result in results.items():
        for rail in _headline_rails(result):
            for line in _balance_lines(result.balance[rail]):
                print(f"{precision}, {rail}: {line}")
    for line in dict.fromkeys(line for result in results.values() for line in _sensor_lines(result)):
        print(line)
    for precision, result in results.items():
        for line in _problem_lines(result):
            print(f"{precision}, {line}")


def _headline_rails(result: BenchEnergy) -> list[str]:
    """Return the totals, or all rails where there is no total."""
    rails = result.energy.rails
    return [key for key, facts in rails.items() if facts.scope] or list(rails)


def _rows(precision: str, result: BenchEnergy) -> Iterator[tuple[str, ...]]:
    for name, workload in result.energy.workloads.items():
        for key, rail in workload.rails.items():
            joules = result.balance[key].joules_per_correct_prediction.get(name)
            yield (
                precision,
                classifier_name(name),
                key,
                _estimate(rail.gross_mj),
                _estimate(rail.net_mj),
                f"{rail.power_mw:.0f}",
                f"{rail.idle_mw:.0f}",
                "" if joules is None else f"{joules:.4g}",
                "no" if rail.problems or workload.problems else "yes",
            )


def _estimate(estimate: MeanEstimate) -> str:
    """Return a mean with two digits of its uncertainty."""
    if not estimate.plus_minus:
        return f"{estimate.mean:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(estimate.plus_minus)))
    return f"{estimate.mean:.{decimals}f} ±{estimate.plus_minus:.{decimals}f}"


def _balance_lines(balance: RailBalance) -> Iterator[str]:
    for kind, exits in (("gross", balance.gross), ("net", balance.net)):
        yield f"{kind} {_mix(exits)}; {_break_even(exits)}"


def _mix(balance: ExitBalance) -> str:
    return f"mix {balance.mix_mj:.4g} mJ, expected from shares and exits {balance.expected_mix_mj:.4g} mJ"


def _break_even(balance: ExitBalance) -> str:
    """Return the share of frames from which each early exit pays."""
    shares = [
        f"exit {k} never" if share is None else f"exit {k} from {share:.0%} of the frames"
        for k, share in enumerate(balance.break_even_shares)
    ]
    return f"saves energy: {', '.join(shares)}"


def _sensor_lines(result: BenchEnergy) -> Iterator[str]:
    method = result.energy.method
    loops = f"{method.rounds} loops of {method.loop_s:g} s each, in random order"
    yield f"{loops}, between idle windows of {method.idle_s:g} s; ± is half the 95 % interval over the loops"
    for key, rail in result.energy.rails.items():
        interval = (
            "changed once" if rail.update_interval_ms is None else f"updated every {rail.update_interval_ms:.0f} ms"
        )
        yield f"{key}: {interval}" + (f"; total of {rail.scope}" if rail.scope else "")
    for unavailable in result.energy.unavailable:
        yield f"{unavailable.name} is unavailable: {unavailable.reason}"


def _problem_lines(result: BenchEnergy) -> Iterator[str]:
    for name, workload in result.energy.workloads.items():
        for problem in workload.problems:
            yield f"{classifier_name(name)} is not valid: {problem}"
        for key, rail in workload.rails.items():
            for problem in rail.problems:
                yield f"{classifier_name(name)} on {key} is not valid: {problem}"
