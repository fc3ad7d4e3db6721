"""Paired comparisons: intervals cover the truth, p-values are corrected, counts add up."""

import numpy as np
import pytest

from benchmarks.papers.comparisons import Comparison, compare, holm

Correct = list[np.ndarray]


def comparison(ours: Correct, baseline: Correct) -> Comparison:
    return Comparison("fashion", "egt", "joint", 0.1, (0.1, 0.1), *compare(ours, baseline))


def draw(
    generator: np.random.Generator, gain: float, spread: float, seeds: int = 5, images: int = 2000
) -> tuple[Correct, Correct]:
    """Return correct predictions of both sides: easy images are solved by most networks, seeds differ by `spread`."""
    easiness = generator.beta(8, 1, images)
    sides: tuple[Correct, Correct] = ([], [])
    for side, shift in zip(sides, (gain, 0.0), strict=True):
        for _ in range(seeds):
            chance = easiness + shift + generator.normal(0, spread / np.sqrt(2))
            side.append(generator.random(images) < chance)
    return sides


def test_equal_predictions_differ_by_nothing() -> None:
    same = [np.arange(100) % 9 > 0] * 3
    equal = comparison(same, same)
    assert (equal.difference, equal.interval(), equal.p_value()) == (0, (0, 0), 1)


def test_seeds_and_images_tell_of_the_same_difference() -> None:
    ours, baseline = draw(np.random.default_rng(0), 0.01, 0.01)
    found = comparison(ours, baseline)
    sums = np.arange(-5, 6) @ np.array(found.by_image)
    assert sum(found.by_image) == 2000
    assert found.difference == pytest.approx(sums / (5 * 2000))
    assert found.difference == pytest.approx(np.mean(ours) - np.mean(baseline))


def test_a_large_difference_is_significant_and_changes_its_sign_with_the_sides() -> None:
    ours, baseline = draw(np.random.default_rng(0), 0.05, 0.002)
    found, opposite = comparison(ours, baseline), comparison(baseline, ours)
    low, high = found.interval()
    assert 0 < low < found.difference < high
    assert found.p_value() < 0.005
    assert opposite.interval()[1] < 0


@pytest.mark.parametrize(("spread", "images"), [(0.0, 500), (0.01, 2000)], ids=["few images", "seeds that differ"])
def test_intervals_cover_no_difference_in_about_95_of_100_comparisons(spread: float, images: int) -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(100):
        low, high = comparison(*draw(generator, 0.0, spread, images=images)).interval()
        covered += low <= 0 <= high
    assert covered >= 89


def test_few_seeds_that_differ_are_covered_as_often_as_many() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        low, high = comparison(*draw(generator, 0.0, 0.03, seeds=3, images=500)).interval()
        covered += low <= 0 <= high
    assert covered >= 91  # a bootstrap of the seeds covers about 85


def test_seeds_that_differ_widen_the_interval() -> None:
    def width(spread: float) -> float:
        low, high = comparison(*draw(np.random.default_rng(3), 0.0, spread)).interval()
        return high - low

    assert width(0.03) > 2 * width(0.0)


def test_a_single_seed_has_the_interval_of_its_images() -> None:
    ours, baseline = draw(np.random.default_rng(0), 0.0, 0.0, seeds=1)
    low, high = comparison(ours, baseline).interval()
    deviation = (ours[0].astype(float) - baseline[0]).std() / np.sqrt(2000)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.05)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [((0.01, 0.04, 0.03), (0.03, 0.06, 0.06)), ((0.5, 0.9), (1.0, 1.0)), ((0.02,), (0.02,)), ((), ())],
)
def test_holm_multiplies_by_the_number_of_hypotheses_that_are_left(
    p_values: tuple[float, ...], corrected: tuple[float, ...]
) -> None:
    assert holm(p_values) == pytest.approx(corrected)
