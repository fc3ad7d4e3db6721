"""Advice on exits: every rule at its limits, and silence about healthy networks."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from edge.advice import Advice, ExitFigures, advise, exit_figures, is_as_accurate, merge_precisions
from edge.decision import NEVER, Scores

HEALTHY = ExitFigures(
    samples=2000,
    majority=210,
    by_chance=(210, 210, 210),
    correct=(1660, 1880, 1906),
    lost=(270, 44, 0),
    gained=(24, 18, 0),
    answered=(1200, 600, 200),
    cost=(0.09, 0.47, 1.0),
)
EQUAL = {"correct": (1660, 1902, 1906), "lost": (270, 22, 0), "gained": (24, 18, 0)}
"""Exit 1 is as accurate as the last one."""


def topics(advice: Sequence[Advice]) -> list[str]:
    return [item.topic for item in advice]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"answered": (1979, 15, 6)}, []),
        ({"answered": (1980, 14, 6)}, ["dominant 0"]),
        ({"answered": (2000, 0, 0)}, ["dominant 0"]),
        ({"answered": (4, 1990, 6)}, ["dominant 1"]),
        ({"answered": (0, 10, 1990)}, ["dominant 2"]),
        (EQUAL, ["equal 1"]),
        (EQUAL | {"answered": (0, 2000, 0)}, ["dominant 1"]),
        (EQUAL | {"answered": (2000, 0, 0)}, ["dominant 0", "equal 1"]),
        ({"correct": (226, 220, 231)}, ["chance"]),
        ({"correct": (226, 220, 232), "answered": (2000, 0, 0)}, ["chance"]),
        ({"correct": (226, 220, 260), "answered": (2000, 0, 0)}, ["dominant 0"]),
        ({"majority": 1820, "by_chance": (1820, 1820, 1820), "correct": (1820, 1825, 1826)}, ["chance"]),
    ],
)
def test_each_rule_applies_from_its_limit_on(changes: dict[str, object], expected: list[str]) -> None:
    assert topics(advise(dataclasses.replace(HEALTHY, **changes))) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lost", "gained", "samples", "expected"),
    [
        (0, 0, 20, False),  # too few samples to tell
        (0, 0, 75, False),
        (0, 0, 100, True),
        (3, 2, 269, True),
        (0, 6, 100, True),  # more accurate than the last exit
        (5, 0, 2000, False),  # rare, but never the other way round: p = 1/32
        (4, 0, 2000, True),
        (44, 18, 2000, False),
        (35, 25, 2000, True),
        (200, 180, 2000, False),  # not significant, yet 2 points cannot be ruled out
        (200, 190, 20000, True),
    ],
)
def test_an_exit_is_as_accurate_as_the_last_one_within_the_noise_of_enough_samples(
    lost: int, gained: int, samples: int, expected: bool
) -> None:
    assert is_as_accurate(lost, gained, samples) is expected


@pytest.mark.parametrize("samples", [30, 100, 269, 2000])
def test_an_exit_three_points_less_accurate_than_the_last_is_seldom_called_equal(samples: int) -> None:
    generator = np.random.default_rng(0)
    pairs = generator.multinomial(samples, [0.045, 0.015, 0.94], size=500)
    assert np.mean([is_as_accurate(int(lost), int(gained), samples) for lost, gained, _ in pairs]) <= 0.1


@pytest.mark.parametrize(
    ("samples", "classes", "accuracy", "is_chance"),
    [(30, 3, 0.60, False), (300, 3, 0.34, True), (300, 2, 0.54, True), (300, 2, 0.60, False), (5000, 10, 0.12, False)],
)
def test_chance_is_the_share_of_the_most_frequent_class(
    samples: int, classes: int, accuracy: float, is_chance: bool
) -> None:
    correct = round(samples * accuracy)
    figures = ExitFigures(samples, samples // classes, (samples / classes,), (correct,), (0,), (0,), (samples,), (1.0,))
    assert topics(advise(figures)) == ["chance"] * is_chance


@pytest.mark.parametrize(("found", "is_chance"), [(45, False), (3, True)])
def test_a_network_that_finds_a_rare_class_is_better_than_chance(found: int, is_chance: bool) -> None:
    """Of 950 common samples 60 are taken for the rare class, so that always naming the common one is more accurate."""
    truth = np.repeat([0, 1], [950, 50])
    label = np.repeat([0, 1, 1, 0], [890, 60, found, 50 - found]).astype(np.int32)[None]
    scores = Scores(np.full((1, 1000), 0.9, dtype=np.float32), label)
    figures = exit_figures(scores, truth, np.array([], dtype=np.float32), [1])
    assert figures.correct[0] < figures.majority
    assert topics(advise(figures)) == ["chance"] * is_chance


def test_samples_of_one_class_tell_nothing_about_chance() -> None:
    assert advise(ExitFigures(50, 50, (50,), (50,), (0,), (0,), (50,), (1.0,))) == []


@pytest.mark.parametrize(
    ("changes", "has_budget", "phrases"),
    [
        (
            {"answered": (2000, 0, 0)}, False,
            ("exit 0 answers 100.0% of 2000 samples (83.0% correct against 95.3%)", "--truncated-at 0",
             "move the first exit", "lower the limit (--limit)"),
        ),
        ({"answered": (2000, 0, 0)}, True, ("raise the budget",)),
        ({"answered": (0, 10, 1990)}, False, ("the last exit answers 99.5%", "raise the limit", "--truncated-at 2")),
        (EQUAL, False, ("95.1% correct against 95.3%", "at 47% of its MACs", "take 30% on average", "leave out")),
        (EQUAL | {"answered": (100, 900, 1000)}, False, ("take 72% on average", "--truncated-at 1")),
        ({"correct": (226, 220, 231)}, False, ("no better than chance", "11.6% of 2000 samples", "10.5%")),
    ],
)  # fmt: skip
def test_advice_gives_the_figures_and_the_remedy(
    changes: dict[str, object], has_budget: bool, phrases: Sequence[str]
) -> None:
    advice = advise(dataclasses.replace(HEALTHY, **changes), has_budget=has_budget)  # type: ignore[arg-type]
    text = " ".join(item.text for item in advice)
    assert [phrase for phrase in phrases if phrase not in text] == []


def test_figures_are_counted_from_scores() -> None:
    scores = Scores(
        np.array([[0.9, 0.2, 0.8, np.nan], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32),
        np.array([[0, 1, 1, 0], [0, 1, 0, 1]], dtype=np.int32),
    )
    figures = exit_figures(scores, np.array([0, 0, 0, 1]), np.array([0.5], dtype=np.float32), [1, 3])
    assert figures == ExitFigures(4, 3, (2.0, 2.0), (1, 3), (2, 0), (0, 0), (2, 2), (0.25, 1.0))
    assert figures.mean_cost == 0.625
    never = exit_figures(scores, np.array([0, 0, 0, 1]), np.array([NEVER], dtype=np.float32), [1, 3])
    assert never.answered == (0, 4)


def test_precisions_with_the_same_advice_share_a_line() -> None:
    advice = {"fp32": [Advice("a", "one"), Advice("b", "two")], "fp16": [], "int8": [Advice("a", "uno")]}
    assert merge_precisions(advice) == ["fp32, likewise int8: one", "fp32: two"]
