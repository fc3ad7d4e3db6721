"""Networks compared over the test images of all folds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.elpv.folds import ALONE, EARLY_EXITS, NETWORKS, UNGUIDED, Row

RESAMPLES, INTERVAL = 10_000, (2.5, 97.5)


def compare(rows: Sequence[Row]) -> dict[str, Any]:
    """Compare early exits with both other networks, with paired bootstrap intervals of the differences of accuracy.

    Values of the networks are means over folds, and those of attention also over the exits.
    """
    folds = {name: [row for row in rows if row["network"] == name] for name in NETWORKS}
    correct = {name: np.array([int(d) for row in members for d in row["correct"]]) for name, members in folds.items()}
    early = folds[EARLY_EXITS]
    return {
        "folds": len(early),
        "images": len(correct[EARLY_EXITS]),
        "networks": {name: means(members) for name, members in folds.items()},
        "speedup": [row["latency_ms"] / ours["latency_ms"] for ours, row in zip(early, folds[ALONE], strict=True)],
        "against": {rival: difference(correct[EARLY_EXITS], correct[rival]) for rival in (ALONE, UNGUIDED)},
        "curve": [mean_of(points) for points in zip(*(row["curve"] for row in early), strict=True)],
    }


def means(rows: Sequence[Row]) -> dict[str, Any]:
    """Return a network's means over folds."""
    attention = [{name: float(np.mean(values)) for name, values in row["attention"].items()} for row in rows]
    return {
        "accuracy": float(np.mean([digit == "1" for row in rows for digit in row["correct"]])),
        "macs_ratio": float(np.mean([row["macs_ratio"] for row in rows])),
        "exit_accuracy": np.mean([row["exit_accuracy"] for row in rows], axis=0).tolist(),
        "attention": mean_of(attention),
    }


def mean_of(dictionaries: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each value over dictionaries with the same keys."""
    return {key: float(np.mean([values[key] for values in dictionaries])) for key in dictionaries[0]}


def difference(ours: NDArray[np.int64], rival: NDArray[np.int64]) -> dict[str, Any]:
    """Return the difference of the accuracies on the same images, and its interval."""
    paired = ours - rival
    return {"difference": float(paired.mean()), "interval": bootstrap_interval(paired)}


def bootstrap_interval(paired: NDArray[np.int64]) -> list[float]:
    """Return the percentile bootstrap interval of the mean of paired differences."""
    values, counts = np.unique(paired, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(paired), counts / len(paired), RESAMPLES)
    return [float(bound) for bound in np.percentile(drawn @ values / len(paired), INTERVAL)]
