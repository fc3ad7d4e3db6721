"""The networks of the comparison, in the order in which they are trained."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from benchmarks.papers.methods import CGT, DEFAULT, FORMER, GUIDED, JOINT, METHODS, PLAIN, RIVALS
from benchmarks.papers.tasks import TASKS
from edge.training.settings import Settings

BUDGETS = (0.10, 0.15, 0.20, 0.30)
"""Mean multiply-accumulates of the claims, as shares of the whole network's."""
CURVE = (*BUDGETS, 0.5, 0.7, 1.0)
MAIN_TASK = "fashion"
MAPPED = (JOINT, DEFAULT)
"""Methods whose attention maps are evaluated."""
BEST_CGT = "cgt-budget"
"""Form of Confidence-Gated Training with the highest validation accuracy over the budgets, chosen before any test."""
VALIDATION_SEEDS, TEST_SEEDS = (100, 101), (0, 1, 2, 3, 4)
QUICK_EPOCHS = 2


@dataclass(frozen=True, slots=True)
class Run:
    """A network to train, and the split to evaluate it on."""

    task: str
    method: str
    seed: int
    split: Literal["validation", "test"]
    epochs: int

    @property
    def settings(self) -> Settings:
        """Settings of the training."""
        method, task = METHODS[self.method], TASKS[self.task].settings
        settings = replace(task, epochs=self.epochs, seed=self.seed, attention_weight=0.0)
        regime = self.method if method.phases else "joint"
        return replace(settings, **{"regime": regime, **method.settings})

    @property
    def name(self) -> str:
        """Relative folder of the run."""
        return f"{self.task}/{self.method}/seed-{self.seed}"


def full_grid() -> list[Run]:
    """Return all runs, those of the main claims first; the choice that `BEST_CGT` records need not be repeated."""
    rivals = (JOINT, *CGT, DEFAULT, GUIDED, *RIVALS)
    claims = (JOINT, BEST_CGT, DEFAULT, FORMER, *PLAIN)
    hard_tasks = ("fashion-noisy", "fashion-long-tail")
    return [
        *_runs([MAIN_TASK], claims, TEST_SEEDS, "test"),
        *_runs(hard_tasks, (JOINT, BEST_CGT, DEFAULT), TEST_SEEDS, "test"),
        *_runs([MAIN_TASK], (GUIDED, *RIVALS, "hard-cgt-plain", "soft-cgt-plain"), TEST_SEEDS, "test"),
        *_runs(["indian-pines", "indian-pines-disjoint"], (JOINT, BEST_CGT, DEFAULT), TEST_SEEDS, "test"),
        *_runs(hard_tasks, (*PLAIN, "hard-cgt-plain", "soft-cgt-plain"), TEST_SEEDS, "test"),
        *_runs([MAIN_TASK], rivals, VALIDATION_SEEDS, "validation"),
    ]


def quick_grid() -> list[Run]:
    """Return the runs of the main claims with one seed and few epochs: every table in minutes, too few to conclude."""
    methods = (JOINT, BEST_CGT, DEFAULT, *PLAIN)
    return [replace(run, epochs=QUICK_EPOCHS) for run in _runs([MAIN_TASK], methods, TEST_SEEDS[:1], "test")]


def _runs(
    tasks: Iterable[str], methods: Iterable[str], seeds: Iterable[int], split: Literal["validation", "test"]
) -> Iterator[Run]:
    """Yield the runs of these methods; each seed has all of them before the next begins."""
    for task, seed, method in product(tasks, seeds, dict.fromkeys(methods)):
        yield Run(task, method, seed, split, TASKS[task].settings.epochs)
