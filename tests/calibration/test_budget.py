"""Thresholds fitted to a budget stay within it, and reach nearly the best accuracy possible there."""

import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.budget import fit_to_macs, fit_to_ms, segment_latencies_ms
from calibration.operating_points import OperatingPoint, operating_point_of, operating_points, within_budget
from edge.bundle.manifest import Thresholds
from edge.decision import Scores
from edge.errors import ThresholdError
from tests.support.scores import CLASSES, distinct_thresholds, random_scores, segment_costs

Fit = Callable[[Scores, NDArray[np.int64], Sequence[float], float, str], Thresholds]
ROUNDING = 1e-9
exit_counts = st.sampled_from([2, 3, 5])
seeds = st.integers(0, 2**32 - 1)


def fit_with_macs_as_ms(
    scores: Scores, truth: NDArray[np.int64], macs: Sequence[float], share: float, split: str
) -> Thresholds:
    """Fit to the same budget, as if each multiply-accumulate took a millisecond."""
    return fit_to_ms(scores, truth, macs, macs, share * sum(macs), split)


def fitted(scores: Scores, truth: NDArray[np.int64], share: float) -> OperatingPoint:
    """Return the point within a budget between the first exit's cost (share 0) and the whole network's (share 1)."""
    return within_budget(scores, truth, segment_costs(len(scores.label)), budget_of(len(scores.label), share))


def budget_of(exits: int, share: float) -> float:
    first = segment_costs(exits)[0] / sum(segment_costs(exits))
    return first + share * (1 - first)


@given(
    exits=exit_counts,
    samples=st.integers(1, 60),
    seed=seeds,
    levels=st.sampled_from([None, 1, 4]),
    share=st.floats(0.001, 1),
)
@settings(max_examples=60, deadline=None)
def test_the_cost_is_within_the_budget(exits: int, samples: int, seed: int, levels: int | None, share: float) -> None:
    scores, truth = random_scores(exits, samples, seed, levels)
    point = fitted(scores, truth, share)
    assert point.cost_ratio <= budget_of(exits, share) + ROUNDING
    assert all(np.isfinite(value) and value >= 0 for value in point.thresholds)


@given(exits=exit_counts, seed=seeds, share=st.floats(0.001, 1))
@settings(max_examples=40, deadline=None)
def test_no_operating_point_within_the_budget_is_more_accurate(exits: int, seed: int, share: float) -> None:
    scores, truth = random_scores(exits, 50, seed)
    point = fitted(scores, truth, share)
    budget = budget_of(exits, share)
    points = operating_points(scores, truth, segment_costs(exits))
    assert all(point.accuracy >= other.accuracy for other in points if other.cost_ratio <= budget)


@given(exits=exit_counts, seed=seeds, share=st.floats(0.001, 1))
@settings(max_examples=20, deadline=None)
def test_a_point_within_a_budget_describes_its_thresholds(exits: int, seed: int, share: float) -> None:
    scores, truth = random_scores(exits, 50, seed)
    point = fitted(scores, truth, share)
    assert point == operating_point_of(
        scores, truth, segment_costs(exits), np.array(point.thresholds, dtype=np.float32)
    )


@pytest.mark.parametrize("exits", [2, 3, 5])
def test_the_full_budget_is_at_least_as_accurate_as_no_early_exits(exits: int) -> None:
    scores, truth = random_scores(exits, 200, seed=0)
    assert fitted(scores, truth, 1.0).accuracy >= (scores.label[-1] == truth).mean()


@pytest.mark.parametrize("exits", [2, 3, 5])
def test_most_of_the_budget_is_used_if_deeper_exits_are_better(exits: int) -> None:
    """Interpolation fills the gaps between trade-offs on the convex hull."""
    for seed, share in itertools.product(range(5), (0.2, 0.4, 0.6)):
        scores, truth = random_scores(exits, 400, seed)
        scores.label[-1] = truth  # the last exit is always right
        point = fitted(scores, truth, share)
        assert point.accuracy == 1 or point.cost_ratio > budget_of(exits, share) - 0.05


def test_exhaustive_search_is_little_more_accurate_within_a_budget() -> None:
    lost = []
    for seed, share in itertools.product(range(4), (0.2, 0.5)):
        scores, truth = random_scores(3, 200, seed, levels=24)
        possible = (
            operating_point_of(scores, truth, segment_costs(3), np.array(thresholds, dtype=np.float32))
            for thresholds in itertools.product(*map(distinct_thresholds, scores.confidence[:-1]))
        )
        best = max(point.accuracy for point in possible if point.cost_ratio <= budget_of(3, share))
        lost.append(best - fitted(scores, truth, share).accuracy)
    assert min(lost) >= -ROUNDING
    assert max(lost) <= 0.04
    assert sum(lost) / len(lost) <= 0.02


def test_the_cheapest_of_equally_accurate_points_is_chosen() -> None:
    truth = np.arange(60) % CLASSES
    scores = Scores(
        np.tile(np.linspace(0.3, 0.9, 60, dtype=np.float32), (3, 1)), np.tile(truth, (3, 1)).astype(np.int32)
    )
    point = fitted(scores, truth, 0.7)
    assert point.exit_shares == (1, 0, 0)
    assert point.accuracy == 1


@pytest.mark.parametrize("samples", [1, 7, 49, 100, 199])
@pytest.mark.parametrize("macs", [[3, 2, 5], [1, 2, 7], [7, 8, 85], [10, 30]])
def test_a_budget_of_exactly_the_first_exit_is_enough(macs: list[int], samples: int) -> None:
    """However the mean of equal costs is rounded."""
    scores, truth = random_scores(len(macs), samples, seed=0)
    point = within_budget(scores, truth, macs, macs[0] / sum(macs))
    assert point.exit_shares[0] == 1


@pytest.mark.parametrize("exits", [2, 3, 5])
def test_a_budget_below_the_first_exits_cost_is_refused_and_names_it(exits: int) -> None:
    scores, truth = random_scores(exits, 40, seed=0)
    first = segment_costs(exits)[0] / sum(segment_costs(exits))
    with pytest.raises(ThresholdError, match=f"a budget of .* is too small: its first exit alone takes {first:.0%}"):
        within_budget(scores, truth, segment_costs(exits), 0.9 * first)


def test_a_network_with_one_exit_needs_the_full_budget() -> None:
    scores, truth = random_scores(1, 40, seed=0)
    assert within_budget(scores, truth, [5], 1.0).thresholds == ()
    with pytest.raises(ThresholdError, match="its first exit alone takes 100%"):
        within_budget(scores, truth, [5], 0.9)


@pytest.mark.parametrize("fit", [fit_to_macs, fit_with_macs_as_ms])
def test_fitting_a_budget_without_samples_is_refused(fit: Fit) -> None:
    empty = Scores(np.zeros((2, 0), dtype=np.float32), np.zeros((2, 0), dtype=np.int32))
    with pytest.raises(ThresholdError, match="no samples to fit thresholds to"):
        fit(empty, np.zeros(0, dtype=np.int64), segment_costs(2), 0.5, "s")


@pytest.mark.parametrize("fit", [fit_to_macs, fit_with_macs_as_ms])
def test_fitting_a_budget_to_scores_of_another_network_is_refused(fit: Fit) -> None:
    scores, truth = random_scores(3, 40, seed=0)
    with pytest.raises(ThresholdError, match="2 exits and 40 labels"):
        fit(scores, truth, segment_costs(2), 0.5, "s")


def test_a_budget_in_milliseconds_equals_its_share_of_the_last_exits_latency() -> None:
    scores, truth = random_scores(3, 200, seed=1)
    by_share = fit_to_macs(scores, truth, segment_costs(3), 0.6, "s")
    costs_ms = [0.5 * cost for cost in segment_costs(3)]
    by_time = fit_to_ms(scores, truth, segment_costs(3), costs_ms, 0.6 * sum(costs_ms), "s")
    assert by_time.values == by_share.values
    assert by_share == Thresholds(
        by_share.values, "mean_macs", 0.6, "none", None, 200, "s", candidates=by_share.candidates
    )
    assert (by_time.target_metric, by_time.limit) == ("mean_ms", pytest.approx(0.3 * sum(segment_costs(3))))


@pytest.mark.parametrize("budget", [math.nan, -0.1, 0.0])
@pytest.mark.parametrize("fit", [fit_to_macs, fit_with_macs_as_ms])
def test_an_invalid_budget_is_refused(fit: Fit, budget: float) -> None:
    scores, truth = random_scores(3, 40, seed=0)
    with pytest.raises(ThresholdError, match="budget"):
        fit(scores, truth, segment_costs(3), budget, "s")


@pytest.mark.parametrize("percent", [50, 1.01])
def test_a_budget_of_macs_in_percent_is_refused(percent: float) -> None:
    scores, truth = random_scores(3, 40, seed=0)
    with pytest.raises(ThresholdError, match=rf"the budget is {percent} times .* give a share of it, such as 0\.5"):
        fit_to_macs(scores, truth, segment_costs(3), percent, "s")


def bench_file(path: Path, means: Sequence[object]) -> Path:
    """Write the output of `edge bench --json` for exits with these mean latencies."""
    measured = {"whole": {"latency_ms": {"mean": 9.0}}, "per_exit": [{"latency_ms": {"mean": mean}} for mean in means]}
    path.write_text(json.dumps({"precisions": {"fp32": measured}, "segments": {"fp32": "ours"}}))
    return path


def test_a_segments_latency_is_its_exits_minus_the_previous_exits(tmp_path: Path) -> None:
    latencies_ms = segment_latencies_ms(
        bench_file(tmp_path / "bench.json", [0.5, 0.75, 2]), "fp32", exits=3, segments="ours"
    )
    assert latencies_ms == [0.5, 0.25, 1.25]


@pytest.mark.parametrize("means", [[0.5, 0.5, 2.0], [0.5, 0.4, 2.0], [0.0, 0.5, 2.0], [-1.0, 0.5, 2.0]])
def test_latencies_that_do_not_grow_with_the_exit_are_refused(means: list[float], tmp_path: Path) -> None:
    with pytest.raises(
        ThresholdError, match=r"takes no longer than the exit before it.*measure again on an idle machine"
    ):
        segment_latencies_ms(bench_file(tmp_path / "bench.json", means), "fp32", exits=3, segments="ours")


def test_latencies_of_other_segments_are_refused(tmp_path: Path) -> None:
    bench = bench_file(tmp_path / "bench.json", [0.5, 0.75, 2])
    with pytest.raises(ThresholdError, match=r"bench\.json was measured with segments that differ from those of fp32"):
        segment_latencies_ms(bench, "fp32", exits=3, segments="others")


@pytest.mark.parametrize(
    "means",
    [
        pytest.param([0.5, 1.0], id="a missing exit"),
        pytest.param([0.5, 1.0, None], id="null"),
        pytest.param([0.5, 1.0, "fast"], id="a string"),
        pytest.param([0.5, 1.0, [2.0]], id="a list"),
        pytest.param([0.5, 1.0, math.nan], id="NaN"),
        pytest.param([0.5, 1.0, math.inf], id="infinite"),
        pytest.param([0.5, 1.0, 10**400], id="beyond floats"),
        pytest.param([0.5, 1.0, 2.0, 3.0], id="an extra exit"),
    ],
)
def test_a_bench_without_a_latency_for_each_exit_is_refused(means: list[object], tmp_path: Path) -> None:
    with pytest.raises(ThresholdError, match=r"bench\.json.*fp32"):
        segment_latencies_ms(bench_file(tmp_path / "bench.json", means), "fp32", exits=3, segments="ours")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"text",
        bytes(range(256)),
        b"null",
        b"[]",
        b'"precisions"',
        b'{"precisions": []}',
        b"[" * 100_000,
        bytes([255]) * 100_000,
    ],
    ids=["empty", "cut off", "text", "binary", "null", "list", "string", "no precisions", "deep", "large"],
)
def test_a_file_that_is_not_a_bench_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_bytes(content)
    expected = r"bench\.json lacks the latency of one of the 3 exits of fp32 .*write it with `edge bench"
    with pytest.raises(ThresholdError, match=expected) as error:
        segment_latencies_ms(tmp_path / "bench.json", "fp32", exits=3, segments="ours")
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_a_bench_that_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path / "pipe", "is not a regular file"), (Path("/dev/zero"), "is not a regular file")):
        with pytest.raises(ThresholdError, match=rf"{path} cannot be read \({reason}\); write it with `edge bench"):
            segment_latencies_ms(path, "fp32", exits=3, segments="ours")
