"""Exits and accuracy over all scores in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edge.decision import NONE
from edge.errors import SourceError


@dataclass(frozen=True, slots=True)
class ExitSummary:
    """Images that left at one exit."""

    images: int
    share: float
    accuracy: float | None
    """Share of correct predictions of labelled images; None if there are none."""


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """All images of a dataset."""

    images: int
    damaged: int
    """Images that could not be read. They count in no other figure."""
    labelled: int
    rejected: int
    accuracy: float | None
    exits: tuple[ExitSummary, ...]


def count_images(parts: Sequence[Path]) -> int:
    """Return the number of images in files of scores, damaged ones included."""
    return sum(pq.read_metadata(part).num_rows for part in parts)


def summarise(parts: Sequence[Path], exits: int) -> ScoreSummary:
    """Return the summary of scores.

    Args:
        parts: Files written by `edge.distributed.score.score_shard`.
        exits: Exits of the network.

    Raises:
        SourceError: no image could be read.
    """
    columns = ["truth", "label", "exit_index", "error"]
    table = pq.read_table(list(parts), columns=columns, partitioning=None)  # a folder may be named `label=7`
    intact = table.filter(table["error"].is_null())
    if not len(intact):
        raise SourceError(f"none of the {len(table)} images can be read; the first: {table['error'][0]}")
    by_exit = [intact.filter(pc.equal(intact["exit_index"], k)) for k in range(exits)]
    return ScoreSummary(
        images=len(table),
        damaged=len(table) - len(intact),
        labelled=len(intact) - intact["truth"].null_count,
        rejected=len(intact.filter(pc.equal(intact["label"], NONE))),
        accuracy=_accuracy(intact),
        exits=tuple(ExitSummary(len(rows), len(rows) / len(intact), _accuracy(rows)) for rows in by_exit),
    )


def _accuracy(table: pa.Table) -> float | None:
    """Return the share of correct labels among those that are known."""
    share: float | None = pc.mean(pc.equal(table["truth"], table["label"])).as_py()
    return share
