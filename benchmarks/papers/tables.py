"""The comparison as tables: a line for each way of training, means over seeds."""

from collections.abc import Sequence

from benchmarks.papers.claims import BUDGETS, WHOLE, WITHIN
from benchmarks.papers.rows import Row, Rows, mean_over_exits, percent
from edge.console import print_table

COLUMNS = (
    "trained", "whole", *(f"at {budget}" for budget in BUDGETS), "0.5 points off: MACs", "speed-up", "consistency",
)  # fmt: skip


def print_tables(rows: Sequence[Row]) -> None:
    """Print a table for each dataset and backbone."""
    for dataset, backbone in dict.fromkeys((row["dataset"], row["backbone"]) for row in rows):
        chosen = [row for row in rows if (row["dataset"], row["backbone"]) == (dataset, backbone)]
        found = Rows(chosen, backbone)
        ways = dict.fromkeys((row["regime"], row["alpha"]) for row in chosen if row["truncated_at"] is None)
        lines = [_early_exits(found, regime, alpha) for regime, alpha in ways]
        lines += [_truncated(found, k) for k in sorted({row["truncated_at"] for row in chosen} - {None})]
        print_table(f"{dataset}, {backbone}: accuracy on the test split", COLUMNS, lines)


def _early_exits(found: Rows, regime: str, alpha: float) -> tuple[str, ...]:
    wanted = {"regime": regime, "alpha": alpha}
    accuracy = [percent(found.values("accuracy", operating_point=point, **wanted)) for point in (WHOLE, *BUDGETS)]
    macs, speed = (
        found.values(name, operating_point=WITHIN, **wanted).mean() for name in ("macs_ratio", "speedup_measured")
    )
    consistency = found.values(mean_over_exits("consistency_raw"), operating_point=WHOLE, **wanted).mean()
    name = f"{regime} + EGT" if alpha else regime
    return (name, *accuracy, f"{macs:.0%}", f"{speed:.2f}x", f"{consistency:.3f}")


def _truncated(found: Rows, exit_index: int) -> tuple[str, ...]:
    wanted = {"truncated_at": exit_index}
    macs, speed = (found.values(name, **wanted).mean() for name in ("macs_ratio", "speedup_measured"))
    blank = ("",) * len(BUDGETS)
    accuracy = percent(found.values("accuracy", **wanted))
    return (f"truncated at exit {exit_index}, alone", accuracy, *blank, f"{macs:.0%}", f"{speed:.2f}x", "")
