"""Advice on a network's exits: figures of recorded scores in, sentences out.

All figures are counts on one set of labelled samples, so each rule states how it treats their size:

* An exit is *as accurate as the last one* if the same samples do not show the last exit to be better (one-sided exact
  sign test on the samples that only one of the two classifies correctly, level 5 %), and if there are enough of them to
  rule out that it is better by more than 2 points (one-sided 95 % bound of the difference of paired proportions, with
  half a sample added to each cell: Agresti and Min 2005).
* A network is *no better than chance* if no exit is shown to classify more samples correctly than if it predicted each
  class as often but independently of the sample, as in Cohen's kappa (1960; one-sided binomial test, level 5 %). A
  network that finds most of a rare class is better, even if always naming the most frequent class is more accurate.
* An exit *answers nearly everything* if it answers at least 99 % of the samples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.decision import Scores, decide
from edge.risk import binomial_cdf

LEVEL = 0.05
Z_LEVEL = 1.6449
"""Quantile of the normal distribution at `1 - LEVEL`."""
MAX_DEFICIT = 0.02
NEARLY_ALL = 0.99
CHANCE = "chance"
"""Topic of the advice that a network is no better than chance."""


@dataclass(frozen=True, slots=True)
class ExitFigures:
    """Counts and costs of every exit on one set of labelled samples; each tuple has one value per exit."""

    samples: int
    majority: int
    """Samples of the most frequent class."""
    by_chance: tuple[float, ...]
    """Samples that this exit would classify correctly on average if its predictions were shuffled."""
    correct: tuple[int, ...]
    lost: tuple[int, ...]
    """Samples that the last exit classifies correctly and this exit does not."""
    gained: tuple[int, ...]
    """Samples that this exit classifies correctly and the last exit does not."""
    answered: tuple[int, ...]
    """Samples that leave at this exit with the thresholds in use."""
    cost: tuple[float, ...]
    """Cost of reaching this exit as a share of the whole network's."""

    @property
    def mean_cost(self) -> float:
        """Mean cost of a sample with the thresholds in use, as a share of the whole network's."""
        return sum(map(math.prod, zip(self.cost, self.answered, strict=True))) / self.samples


class Advice(NamedTuple):
    """A sentence, and the topic that it shares with the same advice on other precisions."""

    topic: str
    text: str


def exit_figures(
    scores: Scores, truth: NDArray[np.int64], thresholds: NDArray[np.float32], costs: Sequence[float]
) -> ExitFigures:
    """Count the samples that each exit classifies correctly and those that it answers.

    Args:
        scores: Confidence and label of every exit for every sample.
        truth: True classes, shape (samples,).
        thresholds: One for each exit but the last.
        costs: Cost of each segment, in any unit.
    """
    is_correct = scores.label == truth
    answered = np.bincount(decide(scores, thresholds).exit_index, minlength=len(costs))
    return ExitFigures(
        samples=len(truth),
        majority=int(np.bincount(truth).max()),
        by_chance=tuple(_correct_if_shuffled(label, truth) for label in scores.label),
        correct=tuple(is_correct.sum(axis=1).tolist()),
        lost=tuple((is_correct[-1] & ~is_correct).sum(axis=1).tolist()),
        gained=tuple((is_correct & ~is_correct[-1]).sum(axis=1).tolist()),
        answered=tuple(answered.tolist()),
        cost=tuple((np.cumsum(costs) / np.sum(costs)).tolist()),
    )


def advise(figures: ExitFigures, *, has_budget: bool = False) -> list[Advice]:
    """Return advice on a network's exits; a healthy network gets none.

    Args:
        figures: Counts on the threshold-fitting split.
        has_budget: Whether the thresholds were fitted to a budget of computation, not to a limit on a risk.
    """
    if (chance := chance_advice(figures)) is not None:
        return [chance]
    if len(figures.correct) == 1:
        return []
    equal = first_equal_exit(figures)
    dominant = dominant_exit(figures)
    advice = []
    if dominant is not None:
        advice.append(_dominant_advice(figures, dominant, dominant == equal, has_budget))
    if equal is not None and equal != dominant:
        advice.append(_equal_advice(figures, equal))
    return advice


def chance_advice(figures: ExitFigures) -> Advice | None:
    """Return advice if the network is no better than chance."""
    size = figures.samples
    exits = zip(figures.correct, figures.by_chance, strict=True)
    if figures.majority == size or any(_exceeds(correct, size, expected / size) for correct, expected in exits):
        return None
    return Advice(
        CHANCE,
        f"the network is no better than chance: its best exit classifies {_share(max(figures.correct), figures)} of "
        f"{size} samples correctly, always naming the most frequent class {_share(figures.majority, figures)}; "
        "check labels and images, train for longer or on more images",
    )


def first_equal_exit(figures: ExitFigures) -> int | None:
    """Return the first early exit that is as accurate as the last one, if there is one."""
    pairs = enumerate(zip(figures.lost[:-1], figures.gained[:-1], strict=True))
    return next((k for k, (lost, gained) in pairs if is_as_accurate(lost, gained, figures.samples)), None)


def is_as_accurate(lost: int, gained: int, samples: int) -> bool:
    """Check that `samples` paired samples show no loss of accuracy, and would show one of 2 points.

    Args:
        lost: Samples that only the last exit classifies correctly.
        gained: Samples that only the early exit classifies correctly.
        samples: All samples.
    """
    size = samples + 2
    difference = (lost - gained) / size
    error = math.sqrt((lost + gained + 1) / size - difference**2) / math.sqrt(size)
    return not _exceeds(lost, lost + gained, 0.5) and difference + Z_LEVEL * error <= MAX_DEFICIT


def dominant_exit(figures: ExitFigures) -> int | None:
    """Return the exit that answers nearly everything, if there is one."""
    most = max(figures.answered)
    return figures.answered.index(most) if most >= NEARLY_ALL * figures.samples else None


def merge_precisions(advice: Mapping[str, Sequence[Advice]]) -> list[str]:
    """Return each topic once: with the figures of its first precision and the names of the others."""
    lines: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    for name, of_precision in advice.items():
        for topic, text in of_precision:
            lines.setdefault(topic, text)
            names.setdefault(topic, []).append(name)
    return [f"{_likewise(names[topic])}: {text}" for topic, text in lines.items()]


def _dominant_advice(figures: ExitFigures, k: int, is_equal: bool, has_budget: bool) -> Advice:
    last = len(figures.correct) - 1
    tighten, loosen = ("raise", "lower") if has_budget else ("lower", "raise")
    limit = "the budget" if has_budget else "the limit (--limit)"
    answers = f"answers {_share(figures.answered[k], figures)} of {figures.samples} samples"
    if k == last:
        text = (
            f"the last exit {answers}, so that early exits cost more than they save; {loosen} {limit}, fit thresholds "
            f"on more images, train for longer, or deploy the network without early exits (--truncated-at {last})"
        )
    else:
        compared = " and is as accurate as the last exit within the noise" if is_equal else ""
        text = (
            f"exit {k} {answers}{compared} ({_against_last(figures, k)}); deploy the network truncated "
            f"there (python -m edge.training --truncated-at {k}), move the first exit forward, or {tighten} {limit}"
        )
    return Advice(f"dominant {k}", text)


def _equal_advice(figures: ExitFigures, k: int) -> Advice:
    mean = figures.mean_cost
    compared = (
        f"exit {k} alone is as accurate as the last exit within the noise ({_against_last(figures, k)} of "
        f"{figures.samples} samples) at {figures.cost[k]:.0%} of its MACs, and early exits take {mean:.0%} on average"
    )
    remedy = (
        f"deploy the network truncated there (python -m edge.training --truncated-at {k}), or move the first exit "
        "forward"
        if figures.cost[k] <= mean
        else f"leave out the stages after exit {k}, or set its threshold to 0"
    )
    return Advice(f"equal {k}", f"{compared}; {remedy}")


def _correct_if_shuffled(predicted: NDArray[np.int32], truth: NDArray[np.int64]) -> float:
    """Return the mean number of correct predictions over all orders of the predictions."""
    classes, counts = np.unique(truth, return_counts=True)
    return float(sum(count * (predicted == k).mean() for k, count in zip(classes, counts, strict=True)))


def _exceeds(successes: int, trials: int, probability: float) -> bool:
    """Check by an exact binomial test that the share of successes is above `probability`."""
    return successes > 0 and 1 - binomial_cdf(successes - 1, trials, probability) <= LEVEL


def _against_last(figures: ExitFigures, k: int) -> str:
    return f"{_share(figures.correct[k], figures)} correct against {_share(figures.correct[-1], figures)}"


def _share(count: int, figures: ExitFigures) -> str:
    return f"{count / figures.samples:.1%}"


def _likewise(names: Sequence[str]) -> str:
    first, *others = names
    return f"{first}, likewise {' and '.join(others)}" if others else first
