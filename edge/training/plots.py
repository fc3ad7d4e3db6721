"""Training curves as a picture."""

import io
from pathlib import Path
from typing import Any

from edge.storage import write_file


def write_training_plot(path: Path, history: list[dict[str, Any]]) -> None:
    """Draw each exit's validation accuracy over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for exit_index, values in enumerate(zip(*(row["validation_accuracy"] for row in history), strict=True)):
        axes.plot([row["epoch"] for row in history], values, label=f"exit {exit_index}")
    axes.set(xlabel="epoch", ylabel="validation accuracy")
    axes.grid(alpha=0.3)
    if history:
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_file(path, buffer.getvalue())
