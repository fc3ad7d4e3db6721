"""What one graph saves, drawn over the time of a segment."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.storage import write_file

COLOURS = {"host_clock": "#2563eb", "cuda_events": "#ea580c"}


def write_saving(path: Path, rows: Sequence[Mapping[str, Any]], what: str) -> None:
    """Draw stepwise over one graph, by both clocks; `what` says what ran."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    segments_us = [row["segment_us"] for row in rows]
    for clock, colour in COLOURS.items():
        ratios = [row[clock]["stepwise_over_graph_p50"] for row in rows]
        axes.plot(segments_us, ratios, "-o", color=colour, label=clock.replace("_", " "))
    axes.axhline(1, color="#94a3b8")
    axes.set(xlabel="microseconds of a segment", ylabel="stepwise over one graph, p50", title=what)
    axes.legend()
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_file(path, buffer.getvalue())
