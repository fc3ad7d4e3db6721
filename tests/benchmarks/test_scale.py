"""Figures of growth, and networks of the series."""

import os
from pathlib import Path

import pytest

from benchmarks.scale.growth import Growth, over_exits
from benchmarks.scale.nodes import SHARD_IMAGES, images_per_s


def test_cost_over_linear_is_one_where_it_doubles_with_the_quantity() -> None:
    assert Growth("exits", 1, (2, 4, 8), (1.0, 2.0, 4.0)).over_linear == 1
    assert Growth("exits", 1, (2, 4, 8), (1.0, 3.0, 8.0)).over_linear == 2


def test_a_series_measures_every_size_with_every_number_of_threads(tmp_path: Path) -> None:
    growths = over_exits((2, 3), 2, tmp_path / "networks")
    assert [(growth.threads, growth.values) for growth in growths] == [(1, (2, 3)), (2, (2, 3))]
    assert all(cost > 0 for growth in growths for cost in growth.cost_ms)


def test_throughput_counts_the_shards_after_the_first_of_each_worker(tmp_path: Path) -> None:
    for index, second in enumerate((100, 101, 103, 105)):  # two workers, of which one started late
        part = tmp_path / f"part-{index}.parquet"
        part.touch()
        os.utime(part, (second, second))
    assert images_per_s(tmp_path) == pytest.approx(2 * SHARD_IMAGES / 4)
