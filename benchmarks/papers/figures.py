"""Pictures of the comparison."""

import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.papers.grid import BACKBONE
from edge.storage import write_file

Row = dict[str, Any]


def write_figures(folder: Path, rows: Sequence[Row]) -> None:
    """Write `DATASET.png` for each dataset: accuracy against mean multiply-accumulates, means over seeds."""
    for dataset, members in groupby(sorted(rows, key=lambda row: str(row["dataset"])), key=lambda row: row["dataset"]):
        chosen = [row for row in members if row["backbone"] == BACKBONE]
        if chosen:
            write_file(folder / f"{dataset}.png", _trade_offs(dataset, chosen))


def _trade_offs(dataset: str, rows: Sequence[Row]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in sorted({_line(row) for row in rows}):
        points = []
        members = [row for row in rows if _line(row) == name]
        for point in sorted({(row["operating_point"], row["truncated_at"]) for row in members}, key=str):
            same = [row for row in members if (row["operating_point"], row["truncated_at"]) == point]
            points.append([np.mean([row[field] for row in same]) for field in ("macs_ratio", "accuracy")])
        points.sort()
        axes.plot(*zip(*points, strict=True), "k--o" if name.startswith("truncated") else "-o", label=name)
    axes.set(xlabel="mean multiply-accumulates, share of the whole network's", ylabel="accuracy", title=dataset)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _line(row: Row) -> str:
    if row["truncated_at"] is not None:
        return "truncated, trained alone"
    return f"{row['regime']} + EGT" if row["alpha"] else str(row["regime"])
