"""Figures of the comparison: accuracy against computation."""

import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmarks.papers.grid import BACKBONE
from benchmarks.papers.rows import Row
from edge.storage import write_file


def write_figures(folder: Path, rows: Sequence[Row]) -> None:
    """Write `DATASET.png` for each dataset: accuracy against mean multiply-accumulates, means over seeds."""
    for dataset, members in groupby(sorted(rows, key=lambda row: str(row["dataset"])), key=lambda row: row["dataset"]):
        selected = [row for row in members if row["backbone"] == BACKBONE]
        if selected:
            write_file(folder / f"{dataset}.png", _trade_offs(dataset, selected))


def _trade_offs(dataset: str, rows: Sequence[Row]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for label in sorted({_label(row) for row in rows}):
        points = _mean_points([row for row in rows if _label(row) == label])
        axes.plot(*zip(*points, strict=True), "k--o" if label.startswith("truncated") else "-o", label=label)
    axes.set(xlabel="mean multiply-accumulates, share of the whole network's", ylabel="accuracy", title=dataset)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _mean_points(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Return computation and accuracy of each operating point, as means over seeds, in ascending order."""

    def point(row: Row) -> str:
        return f"{row['operating_point']} {row['truncated_at']}"

    groups = [list(members) for _, members in groupby(sorted(rows, key=point), key=point)]
    means = [
        [float(np.mean([row[field] for row in group])) for field in ("macs_ratio", "accuracy")] for group in groups
    ]
    return sorted((cost, accuracy) for cost, accuracy in means)


def _label(row: Row) -> str:
    if row["truncated_at"] is not None:
        return "truncated, trained alone"
    return f"{row['regime']} + EGT" if row["alpha"] else str(row["regime"])
