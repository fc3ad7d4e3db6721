"""Networks compared over the test images of all folds.

As in `benchmarks.papers.comparisons`, intervals have both sources of chance: the images, which are resampled in pairs,
and the training, by Student's distribution of the mean over folds. Folds also differ by their images, so that the
intervals are rather too wide.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.elpv.folds import ALONE, EARLY_EXITS, NETWORKS, UNGUIDED, Row

RESAMPLES, PERCENTILES = 10_000, (2.5, 97.5)
Correct = NDArray[np.int64]
"""A one for each image that is classified correctly, else a zero, shape (images,)."""


def compare(rows: Sequence[Row]) -> dict[str, Any]:
    """Compare early exits with both other networks.

    Values of the networks are means over folds, and those of attention also over the exits.
    """
    folds = {name: [row for row in rows if row["network"] == name] for name in NETWORKS}
    correct = {name: [np.array([int(d) for d in row["correct"]]) for row in rows] for name, rows in folds.items()}
    early = folds[EARLY_EXITS]
    return {
        "folds": len(early),
        "images": sum(map(len, correct[EARLY_EXITS])),
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


def difference(ours: Sequence[Correct], rival: Sequence[Correct]) -> dict[str, Any]:
    """Return the difference of the accuracies on the same images of each fold, and its interval."""
    paired = [early - other for early, other in zip(ours, rival, strict=True)]
    return {"difference": float(np.concatenate(paired).mean()), "interval": interval(paired)}


def interval(paired: Sequence[Correct]) -> list[float]:
    """Return the 95 % interval of the mean of paired differences, given those of each fold."""
    pooled, generator = np.concatenate(paired), np.random.default_rng(0)
    values, counts = np.unique(pooled, return_counts=True)
    draws = generator.multinomial(len(pooled), counts / len(pooled), RESAMPLES) @ values / len(pooled)
    if len(paired) > 1:
        error = np.std([fold.mean() for fold in paired], ddof=1) / np.sqrt(len(paired))
        draws = draws + error * generator.standard_t(len(paired) - 1, RESAMPLES)
    return [float(bound) for bound in np.percentile(draws, PERCENTILES)]
