"""Recorded runs: latency, energy and accuracy of each classifier, whichever command recorded them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["exit", "early exits", "whole", "truncated"]
"""Kind of a classifier: a forced exit, the chain with its thresholds, the network without exits, or a rival."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Latency and accuracy of one classifier in one precision."""

    precision: str
    kind: Kind
    name: str
    latency_ms: Mapping[str, float]
    """Statistics of `edge.measure.latency.Latency`; older files lack some, and rivals have only `mean`."""
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of an inference of one classifier on one rail."""

    precision: str
    name: str
    rail: str
    gross_mj: Mapping[str, float]
    """Keys `mean` and `plus_minus`, half of the 95 % interval."""
    net_mj: Mapping[str, float]
    problems: tuple[str, ...]
    """Reasons why the figures are invalid."""


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded run."""

    title: str
    board: str | None
    costs: tuple[Cost, ...]
    energies: tuple[Energy, ...]

    def precisions(self) -> list[str]:
        """Return the measured precisions, each once."""
        return list(dict.fromkeys(cost.precision for cost in self.costs))


def run_of(name: str, recorded: Mapping[str, Any]) -> Run | None:
    """Return the run in a parsed file; None if the file records something else."""
    board = recorded["conditions"]["board"] if isinstance(recorded.get("conditions"), Mapping) else None
    if "dataset" in recorded and "precisions" in recorded and "latency_ms" in recorded:
        return Run(f"{recorded['dataset']} (demo)", board, tuple(_demo_costs(recorded["precisions"])), ())
    if "video" in recorded and "precisions" in recorded:
        title = f"{recorded['network']} on a video of {recorded['video']}"
        return Run(title, board, tuple(_real_size_costs(recorded["precisions"])), ())
    if "segments" in recorded and "precisions" in recorded:
        precisions, title = recorded["precisions"], f"{name} on {recorded['backend']}"
        return Run(title, board, tuple(_bench_costs(precisions)), tuple(_bench_energies(precisions)))
    return None


def _demo_costs(precisions: Mapping[str, Any]) -> Iterator[Cost]:
    for precision, values in precisions.items():
        latency, accuracy = values["latency_ms"], values["accuracy"]
        for k, (of_exit, exit_accuracy) in enumerate(zip(latency["exits"], values["exit_accuracy"], strict=True)):
            yield Cost(precision, "exit", f"exit {k} forced", of_exit, exit_accuracy)
        yield Cost(precision, "early exits", "early exits", latency["early_exit"], accuracy["early_exit"])
        yield Cost(precision, "whole", "whole network", latency["whole"], accuracy["whole"])
        for row in values["truncated"]:
            name, mean = f"truncated at exit {row['exit']}, trained alone", {"mean": row["latency_ms_mean"]}
            yield Cost(precision, "truncated", name, mean, row["accuracy"])


def _real_size_costs(precisions: Mapping[str, Any]) -> Iterator[Cost]:
    for precision, exits in precisions.items():
        for name, stages in exits.items():
            if name.startswith("exit "):
                yield Cost(precision, "exit", f"{name} forced", stages["infer"], None)


def _bench_costs(precisions: Mapping[str, Any]) -> Iterator[Cost]:
    for precision, result in precisions.items():
        for k, measured in enumerate(result["per_exit"]):
            yield Cost(precision, "exit", f"exit {k} forced", measured["latency_ms"], measured["accuracy"])
        early, whole = result["early_exit"], result["whole"]
        yield Cost(precision, "early exits", "early exits", early["latency_ms"], early["accuracy"])
        yield Cost(precision, "whole", "whole network", whole["latency_ms"], whole["accuracy"])


def _bench_energies(precisions: Mapping[str, Any]) -> Iterator[Energy]:
    """Yield the energies that `edge bench --energy --json` recorded."""
    names = {"whole": "whole network", "early_exit": "early exits"}
    for precision, result in precisions.items():
        workloads = result["energy"]["energy"]["workloads"] if "energy" in result else {}
        for key, workload in workloads.items():
            name = names.get(key) or f"{key.replace('_', ' ')} forced"
            for rail, energy in workload["rails"].items():
                problems = (*workload["problems"], *energy["problems"])
                yield Energy(precision, name, rail, energy["gross_mj"], energy["net_mj"], problems)
