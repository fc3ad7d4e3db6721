"""Tables of the comparison: one line per training method, means over seeds."""

from collections.abc import Sequence

from benchmarks.papers.claims import BUDGETS, WHOLE, WITHIN
from benchmarks.papers.rows import Row, Rows, mean_over_exits, percent
from edge.console import print_table

COLUMNS = (
    "training", "whole", *(f"at {budget}" for budget in BUDGETS), "MACs at -0.5 points", "speed-up", "consistency",
)  # fmt: skip


def print_tables(rows: Sequence[Row]) -> None:
    """Print a table for each dataset and backbone."""
    for dataset, backbone in dict.fromkeys((row["dataset"], row["backbone"]) for row in rows):
        members = [row for row in rows if (row["dataset"], row["backbone"]) == (dataset, backbone)]
        selected = Rows(members, backbone)
        methods = dict.fromkeys((row["regime"], row["alpha"]) for row in members if row["truncated_at"] is None)
        lines = [_early_exit_line(selected, regime, alpha) for regime, alpha in methods]
        lines += [_truncated_line(selected, k) for k in sorted({row["truncated_at"] for row in members} - {None})]
        print_table(f"{dataset}, {backbone}: accuracy on the test split", COLUMNS, lines)


def _early_exit_line(rows: Rows, regime: str, alpha: float) -> tuple[str, ...]:
    method = {"regime": regime, "alpha": alpha}
    accuracy = [percent(rows.values("accuracy", operating_point=point, **method)) for point in (WHOLE, *BUDGETS)]
    macs, speed = (
        rows.values(name, operating_point=WITHIN, **method).mean() for name in ("macs_ratio", "speedup_measured")
    )
    consistency = rows.values(mean_over_exits("consistency_raw"), operating_point=WHOLE, **method).mean()
    name = f"{regime} + EGT" if alpha else regime
    return (name, *accuracy, f"{macs:.0%}", f"{speed:.2f}x", f"{consistency:.3f}")


def _truncated_line(rows: Rows, exit_index: int) -> tuple[str, ...]:
    accuracy = percent(rows.values("accuracy", truncated_at=exit_index))
    macs, speed = (rows.values(name, truncated_at=exit_index).mean() for name in ("macs_ratio", "speedup_measured"))
    blank = ("",) * len(BUDGETS)
    return (f"truncated at exit {exit_index}, alone", accuracy, *blank, f"{macs:.0%}", f"{speed:.2f}x", "")
