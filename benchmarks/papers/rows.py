"""Selection of rows, and comparisons of finished networks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.papers.comparisons import Comparison, compare
from benchmarks.papers.evaluation import EvaluatedNetwork, Row
from benchmarks.papers.grid import BUDGETS, Run
from benchmarks.papers.methods import DEFAULT, FORMER, JOINT, PLAIN, WHOLE_ALONE

COMPARED_TASKS = ("fashion", "fashion-noisy", "fashion-long-tail", "indian-pines-disjoint")
"""Tasks with the same test images for every seed."""
WHOLE_BUDGET = 0.20
"""Budget at which early exits are compared with the whole network trained alone."""

Finished = Mapping[Run, EvaluatedNetwork]


def select(rows: Sequence[Row], **fields: Any) -> list[Row]:
    """Return the rows with these values, in the order of their seeds."""
    chosen = (row for row in rows if all(row[name] == value for name, value in fields.items()))
    return sorted(chosen, key=lambda row: int(row["seed"]))


def at_budget(rows: Sequence[Row], name: str, budget: float | None) -> NDArray[np.float64]:
    """Return a figure of each row's point at a budget; None for that of networks without early exits."""
    return np.array([point[name] for row in rows for point in row["points"] if point["budget"] == budget])


def percent(values: NDArray[np.float64]) -> str:
    """Return a mean, with its standard deviation over seeds if there are several."""
    return f"{values.mean():.2%}" + (f" ±{values.std(ddof=1) * 100:.2f}" if len(values) > 1 else "")


def comparisons_of(finished: Finished) -> Iterator[Comparison]:
    """Yield the comparisons on test splits, over the seeds that both methods have.

    Every method is compared with joint training, and the default recipe also with joint training at the former rate and
    with plain networks: at each budget with the cheapest that costs the budget or more, and with the whole one.
    """
    for task in COMPARED_TASKS:
        members = {run: network for run, network in finished.items() if (run.task, run.split) == (task, "test")}
        methods = dict.fromkeys(run.method for run in members)
        pairs = [(method, JOINT, budget) for method in methods if method not in (JOINT, *PLAIN) for budget in BUDGETS]
        pairs += [(DEFAULT, rival, budget) for budget in BUDGETS if (rival := plain_at(members, budget))]
        pairs += [*((DEFAULT, FORMER, budget) for budget in BUDGETS), (DEFAULT, WHOLE_ALONE, WHOLE_BUDGET)]
        for method, baseline, budget in pairs:
            if comparison := _compared(members, task, method, baseline, budget):
                yield comparison


def plain_at(members: Finished, budget: float) -> str | None:
    """Return the cheapest plain network that costs the budget or more."""
    costs = {
        run.method: network.row["points"][0]["macs_ratio"]
        for run, network in members.items()
        if run.method in PLAIN and network.row["points"][0]["macs_ratio"] >= budget
    }
    return min(costs, key=lambda method: costs[method], default=None)


def _compared(members: Finished, task: str, method: str, baseline: str, budget: float) -> Comparison | None:
    """Compare two methods at a budget; None without a common seed."""
    ours, theirs = ({run.seed: network for run, network in members.items() if run.method == name}
                    for name in (method, baseline))  # fmt: skip
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    sides = [[_point(networks[seed], budget) for seed in seeds] for networks in (ours, theirs)]
    costs = [float(np.mean([macs_ratio for macs_ratio, _ in side])) for side in sides]
    by_seed, by_image = compare(*([correct for _, correct in side] for side in sides))
    return Comparison(task, method, baseline, budget, (costs[0], costs[1]), by_seed, by_image)


def _point(network: EvaluatedNetwork, budget: float) -> tuple[float, NDArray[np.bool_]]:
    """Return cost and correct predictions at a budget, or those of a network that has no early exits."""
    points = network.row["points"]
    index = next((k for k, point in enumerate(points) if point["budget"] == budget), 0)
    return points[index]["macs_ratio"], network.correct[index]
