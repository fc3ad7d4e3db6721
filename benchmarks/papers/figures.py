"""Figures of the comparison: accuracy against computation."""

import io
from collections.abc import Sequence
from pathlib import Path

from benchmarks.papers.evaluation import Row
from benchmarks.papers.rows import select
from edge.storage import write_file


def write_figures(folder: Path, rows: Sequence[Row]) -> None:
    """Write `TASK.png` for each task with test rows: accuracy against mean multiply-accumulates, means over seeds."""
    tested = select(rows, split="test")
    for task in dict.fromkeys(row["task"] for row in tested):
        write_file(folder / f"{task}.png", _trade_offs(task, select(tested, task=task)))


def _trade_offs(task: str, rows: Sequence[Row]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    methods = {method: _mean_points(select(rows, method=method)) for method in dict.fromkeys(r["method"] for r in rows)}
    plain = [points[0] for points in methods.values() if len(points) == 1]
    if plain:
        axes.plot(*zip(*sorted(plain), strict=True), "k--o", label="plain networks")
    for method, points in methods.items():
        if len(points) > 1:
            axes.plot(*zip(*points, strict=True), "-o", label=method)
    axes.set(xlabel="mean multiply-accumulates, share of the whole network's", ylabel="test accuracy", title=task)
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _mean_points(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Return computation and accuracy of each point of the curve, as means over seeds."""
    points = zip(*(row["points"] for row in rows), strict=True)
    return [
        (sum(p["macs_ratio"] for p in of_seeds) / len(rows), sum(p["accuracy"] for p in of_seeds) / len(rows))
        for of_seeds in points
    ]
