"""Tables of the comparison: a line per method, means over seeds."""

from collections.abc import Iterator, Sequence

from benchmarks.papers.evaluation import Row
from benchmarks.papers.grid import BUDGETS
from benchmarks.papers.rows import at_budget, percent, select
from edge.console import print_table

COLUMNS = (
    "method",
    "seeds",
    *(f"at {budget:.0%} of the MACs" for budget in BUDGETS),
    "any budget",
    "area",
    "exits alone",
)
WHOLE = 1.0


def print_tables(rows: Sequence[Row]) -> None:
    """Print a table for each task and split."""
    for task, split in dict.fromkeys((row["task"], row["split"]) for row in rows):
        print_table(f"{task}: accuracy on the {split} split", COLUMNS, lines_of(select(rows, task=task, split=split)))


def lines_of(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """Yield the line of each method; a plain network stands in the column of the budget that it costs about."""
    for method in dict.fromkeys(row["method"] for row in rows):
        members = select(rows, method=method)
        if members[0]["area"] is None:
            yield plain_line(method, members)
            continue
        accuracies = (percent(at_budget(members, "accuracy", budget)) for budget in (*BUDGETS, WHOLE))
        area = sum(row["area"] for row in members) / len(members)
        exits = zip(*(row["exit_accuracy"] for row in members), strict=True)
        alone = " / ".join(f"{sum(values) / len(values):.1%}" for values in exits)
        yield (method, str(len(members)), *accuracies, f"{area:.2%}", alone)


def plain_line(method: str, members: Sequence[Row]) -> tuple[str, ...]:
    """Return the line of a network without early exits."""
    cost = members[0]["points"][0]["macs_ratio"]
    column = min(range(len(BUDGETS) + 1), key=lambda k: abs((*BUDGETS, WHOLE)[k] - cost))
    cells = [""] * (len(BUDGETS) + 1)
    cells[column] = f"{percent(at_budget(members, 'accuracy', None))}, costs {cost:.1%}"
    return (method, str(len(members)), *cells, "", "")
