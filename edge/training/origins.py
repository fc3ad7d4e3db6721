"""Earlier runs that initial weights come from: their training images must not be held out from training now."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.bundle.manifest import SplitSpec
from edge.errors import CheckpointError, DataError
from edge.training.checkpoint import read_checkpoint
from edge.training.settings import Settings

Run = dict[str, Any]
"""Images of a training run: `dataset`, `data`, `seed`, `fold`, and the fingerprints of its `held_out` splits."""


def earlier_runs(source: str | None) -> list[Run]:
    """Return the run that wrote a checkpoint, after those that its own initial weights come from.

    Args:
        source: `Settings.pretrained`; weights of other programs have no runs.
    """
    if source is None:
        return []
    try:
        checkpoint = read_checkpoint(Path(source))
    except CheckpointError:
        return []
    return [*checkpoint.metrics.get("earlier_runs", []), _run(checkpoint.settings, checkpoint.splits)]


def check_earlier_runs(runs: Sequence[Run], settings: Settings, splits: Mapping[str, SplitSpec]) -> None:
    """Refuse initial weights that may have been trained on images which this run holds out.

    Raises:
        DataError: an earlier run had other splits of the same images.
    """
    this = _run(settings, splits)
    for run in runs:
        if all(run[name] == this[name] for name in ("dataset", "data")) and run["held_out"] != this["held_out"]:
            fold = "" if run["fold"] is None else f" --fold {run['fold']}"
            raise DataError(
                f"{settings.pretrained} was trained on images of this run's test split, or of others that are held "
                f"out: its splits of {settings.dataset} differ; use --seed {run['seed']}{fold} with the same images "
                "and image size, or choose other weights"
            )


def _run(settings: Settings, splits: Mapping[str, SplitSpec]) -> Run:
    held_out = {name: split.fingerprint for name, split in splits.items() if name != "train"}
    return {
        "dataset": settings.dataset,
        "data": settings.data,
        "seed": settings.seed,
        "fold": settings.fold,
        "held_out": held_out,
    }
