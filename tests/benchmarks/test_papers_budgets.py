"""Thresholds spend their budget, where that buys accuracy."""

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.papers.budgets import spend_budget
from calibration.operating_points import OperatingPoint, operating_point_of
from edge.decision import Scores

COSTS = (10.0, 40.0, 50.0)


def recorded(exit_accuracy: tuple[float, ...] = (0.7, 0.85, 0.9)) -> tuple[Scores, NDArray[np.int64]]:
    """Return scores of three exits that are more often right where they are confident."""
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.2, 1, (3, 4000)).astype(np.float32)
    chance = np.clip(np.array(exit_accuracy)[:, None] + 0.4 * (confidence - 0.6), 0, 1)
    truth = generator.integers(0, 10, 4000)
    right = generator.random((3, 4000)) < chance
    return Scores(confidence, np.where(right, truth, (truth + 1) % 10).astype(np.int32)), truth


def spent(scores: Scores, truth: NDArray[np.int64], budget: float) -> OperatingPoint:
    return operating_point_of(scores, truth, COSTS, np.float32(spend_budget(scores, truth, COSTS, budget)))


@pytest.mark.parametrize("budget", [0.10, 0.12, 0.15, 0.2, 0.3, 0.5])
def test_the_mean_cost_is_the_budget(budget: float) -> None:
    assert spent(*recorded(), budget).cost_ratio == pytest.approx(budget, abs=0.002)


def test_a_larger_budget_buys_accuracy() -> None:
    accuracy = [spent(*recorded(), budget).accuracy for budget in (0.1, 0.2, 0.3, 0.5)]
    assert accuracy == sorted(accuracy)
    assert accuracy[-1] > accuracy[0] + 0.05


def test_nothing_is_spent_on_exits_that_lower_the_accuracy() -> None:
    scores, truth = recorded((0.7, 0.85, 0.3))
    point = spent(scores, truth, 1.0)
    assert point.cost_ratio < 0.6
    assert point.exit_shares[2] < 0.1


def test_a_first_exit_that_is_never_wrong_answers_all() -> None:
    scores, truth = recorded()
    perfect = Scores(scores.confidence, np.stack([truth, *scores.label[1:]]).astype(np.int32))
    assert spent(perfect, truth, 0.5).exit_shares[0] == pytest.approx(1, abs=0.01)
