"""The trade-offs thresholds were chosen from, as a picture."""

from pathlib import Path

import numpy as np

from calibration.operating_points import describe, operating_points
from edge.bundle.manifest import Thresholds
from edge.bundle.scores import LabelledScores
from edge.decision import validate_thresholds


def draw_trade_offs(path: Path, found: LabelledScores, macs: list[int], chosen: Thresholds) -> None:
    """Draw accuracy over mean multiply-accumulates on the threshold-fitting split, with the chosen point, as a PNG."""
    from matplotlib.figure import Figure

    points = sorted(operating_points(found.scores, found.truth, macs), key=lambda point: point.cost_ratio)
    values = validate_thresholds(chosen.values, len(macs))
    here = describe(found.scores, found.truth, macs, values)
    alone = (found.scores.label == found.truth).mean(axis=1)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([p.cost_ratio for p in points], [p.accuracy for p in points], ".-", label="best trade-offs here")
    axes.plot(np.cumsum(macs) / np.sum(macs), alone, "s", color="grey", label="each exit answering everything")
    axes.plot(here.cost_ratio, here.accuracy, "o", markersize=10, label=f"chosen, by {chosen.method}")
    axes.set(xlabel="mean multiply-accumulates, share of the whole network's", ylabel="accuracy")
    axes.set_title(f"{len(found.truth)} images thresholds were fitted to")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png", dpi=120)
