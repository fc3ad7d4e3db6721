"""Statistics of repeated measurements: known samples, properties, and the coverage of the intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.measure.statistics import Estimate, Quartiles, median_estimate, quartiles, ratio_estimate

LAUNCHES = st.integers(1, 8).flatmap(
    lambda rounds: st.lists(st.lists(st.floats(1e-3, 1e3), min_size=rounds, max_size=rounds), min_size=1, max_size=8)
)


def test_quartiles_of_a_known_sample() -> None:
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == Quartiles(median=3.0, lower=2.0, upper=4.0)
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]).iqr == 2.0


def test_constant_values_have_an_interval_of_no_width() -> None:
    assert median_estimate(np.full((4, 9), 2.5)) == Estimate(2.5, 2.5, 2.5)


@given(LAUNCHES, st.integers(0, 3))
def test_an_interval_lies_within_the_range_of_the_values(launches: list[list[float]], seed: int) -> None:
    estimate = median_estimate(launches, seed)
    assert np.min(launches) <= estimate.low <= estimate.high <= np.max(launches)
    assert estimate.value == np.median(launches)


@given(LAUNCHES, st.integers(-8, 8))
def test_an_estimate_scales_with_its_unit(launches: list[list[float]], exponent: int) -> None:
    unit = 2.0**exponent  # exact in floating point
    scaled, estimate = median_estimate(np.multiply(launches, unit)), median_estimate(launches)
    assert (scaled.value, scaled.low, scaled.high) == (estimate.value * unit, estimate.low * unit, estimate.high * unit)


@pytest.mark.parametrize(("count", "lowest"), [(6, 0.85), (40, 0.89)])
@pytest.mark.parametrize("launch_share", [0.0, 0.5, 1.0])
def test_intervals_contain_the_true_median_nearly_as_often_as_they_claim(
    launch_share: float, count: int, lowest: float
) -> None:
    """Normal values, with a share of their variance between launches; few launches tell less about it."""
    generator = np.random.default_rng(0)

    def launches() -> np.ndarray:
        effects = generator.normal(0, np.sqrt(launch_share), (count, 1))
        return effects + generator.normal(0, np.sqrt(1 - launch_share), (count, 10))

    estimates = [median_estimate(launches()) for _ in range(300)]
    assert lowest < np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates]) < 0.99


def test_a_drift_of_the_machine_cancels_in_the_ratio_of_pairs() -> None:
    generator = np.random.default_rng(0)
    speed = np.linspace(1.0, 1.5, 60).reshape(6, 10)  # half as slow again at the end
    reference, times = (speed * base * generator.normal(1, 0.005, (6, 10)) for base in (2.0, 2.1))
    estimate = ratio_estimate(times, reference)
    assert 1.04 < estimate.low <= estimate.value <= estimate.high < 1.06


def test_a_disturbed_launch_changes_a_ratio_little() -> None:
    generator = np.random.default_rng(0)
    reference, times = (base * generator.normal(1, 0.005, (6, 10)) for base in (2.0, 2.1))
    times[2] *= 3
    assert ratio_estimate(times, reference).value == pytest.approx(1.05, abs=0.005)
