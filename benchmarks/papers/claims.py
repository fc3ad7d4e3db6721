"""The claims of the papers and of this project, judged on the test splits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from benchmarks.papers.comparisons import Comparison, holm
from benchmarks.papers.evaluation import Row
from benchmarks.papers.grid import BEST_CGT, BUDGETS, MAIN_TASK
from benchmarks.papers.methods import DEFAULT, FORMER, JOINT, PLAIN, WHOLE_ALONE
from benchmarks.papers.rows import WHOLE_BUDGET, at_budget, percent, select

SIGNIFICANCE, MIN_SEEDS = 0.05, 3
TASKS_WITH_ROOM = (MAIN_TASK, "fashion-noisy", "fashion-long-tail")
PINES, PINES_BUDGET = "indian-pines", 0.3
NOT_RUN = "not run"
POINT_ESTIMATE = "point estimate"
"""Says that a claim is judged by the mean over seeds, without an interval."""
FAITHFULNESS_MARGIN = 0.01
NO_LESS_FAITHFUL = f"worse by at most {FAITHFULNESS_MARGIN}, whole 95 % interval over seeds"
Values = NDArray[np.float64]
Criterion = Callable[[Values, Values], bool]


@dataclass(frozen=True, slots=True)
class Claim:
    """A line of the table of claims."""

    claim: str
    asked_for: str
    measured: str = NOT_RUN
    holds: bool | None = None
    """None if fewer than three seeds are trained."""
    seeds: int = 0


def claims_of(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> list[Claim]:
    """Return the table of claims."""
    tested = select(rows, split="test")
    claims = [
        *(claim for task in TASKS_WITH_ROOM for claim in gated_against_joint(comparisons, task)),
        *default_against_joint(comparisons),
        *default_against_plain(comparisons),
        *guided_attention(tested),
        *hyperspectral(tested),
    ]
    return [claim if claim.seeds >= MIN_SEEDS else replace(claim, holds=None) for claim in claims]


def gated_against_joint(comparisons: Sequence[Comparison], task: str) -> Iterator[Claim]:
    """Compare the best form of confidence gating to joint training at each budget."""
    titles = [f"{BEST_CGT} against joint, {task}, {budget:.0%} of the MACs" for budget in BUDGETS]
    found = [_find(comparisons, task, BEST_CGT, JOINT, budget) for budget in BUDGETS]
    yield from judge_budgets(titles, "higher, Holm over the budgets", found)


def default_against_joint(comparisons: Sequence[Comparison]) -> Iterator[Claim]:
    """Compare the default recipe to joint training without attention guidance, as it is and with its former rate."""
    for baseline in (JOINT, FORMER):
        title = f"default recipe against {baseline}, {MAIN_TASK}, 15% of the MACs"
        yield judge(title, ">= +0.5 points", _find(comparisons, MAIN_TASK, DEFAULT, baseline, 0.15), 0.005)


def default_against_plain(comparisons: Sequence[Comparison]) -> Iterator[Claim]:
    """Compare early exits to the plain network of the same cost at each budget, and to the whole one alone."""
    titles = [f"early exits against a plain network, {MAIN_TASK}, {budget:.0%} of the MACs" for budget in BUDGETS]
    found = [_find_plain(comparisons, budget) for budget in BUDGETS]
    claims = judge_budgets(titles, "no lower, Holm over the budgets", found)
    for claim, comparison in zip(claims, found, strict=True):
        costs = f"; it costs {comparison.macs_ratio[1]:.1%}" if comparison else ""
        yield replace(claim, measured=claim.measured + costs)
    title = f"early exits at {WHOLE_BUDGET:.0%} of the MACs against the whole network alone, {MAIN_TASK}"
    whole = _find(comparisons, MAIN_TASK, DEFAULT, WHOLE_ALONE, WHOLE_BUDGET)
    yield judge(title, ">= -0.2 points", whole, -0.002)


def judge_budgets(titles: Sequence[str], asked_for: str, found: Sequence[Comparison | None]) -> Iterator[Claim]:
    """Yield a claim for each budget; it holds if the difference is above 0, corrected for all that are judged."""
    judged = [comparison for comparison in found if comparison and len(comparison.by_seed) >= MIN_SEEDS]
    p_values = iter(holm([comparison.p_value() for comparison in judged]))
    for title, comparison in zip(titles, found, strict=True):
        claim = judge(title, asked_for, comparison, 0)
        if claim.holds is not None:
            p_value = next(p_values)
            holds = claim.holds and p_value < SIGNIFICANCE
            claim = replace(claim, measured=f"{claim.measured}, p = {p_value:.2g}", holds=holds)
        yield claim


def judge(title: str, asked_for: str, comparison: Comparison | None, margin: float) -> Claim:
    """Return a claim that holds if the whole 95 % interval of the difference is at or above a margin."""
    if comparison is None:
        return Claim(title, asked_for)
    seeds = len(comparison.by_seed)
    holds = comparison.interval()[0] >= margin if seeds >= MIN_SEEDS else None
    return Claim(title, asked_for, describe(comparison), holds, seeds)


def guided_attention(rows: Sequence[Row]) -> Iterator[Claim]:
    """Compare the default recipe's attention maps to those without guidance, paired by seed, as means over exits."""
    plain, guided = (
        {row["seed"]: row["maps"] for row in select(rows, task=MAIN_TASK, method=method)} for method in (JOINT, DEFAULT)
    )
    seeds = sorted(plain.keys() & guided.keys())
    title = f"EGT, {MAIN_TASK}: "
    criteria: tuple[tuple[str, str, str, Criterion], ...] = (
        ("raw consistency", "consistency_raw", f"30% of the gap to 1 closed, {POINT_ESTIMATE}", _closes_gap),
        ("mean-centred consistency", "consistency_centred", "higher on every seed", _always_higher),
        ("map entropy", "consistency_entropy", f"not raised, {POINT_ESTIMATE}", _no_higher_mean),
        ("deletion, low if faithful", "deletion", NO_LESS_FAITHFUL, _hardly_raised),
        ("insertion, high if faithful", "insertion", NO_LESS_FAITHFUL,
         lambda before, after: _hardly_raised(-before, -after)),
    )  # fmt: skip
    for name, metric, asked_for, criterion in criteria:
        if not seeds:
            yield Claim(title + name, asked_for)
            continue
        before, after = (np.array([np.mean(side[seed][metric]) for seed in seeds]) for side in (plain, guided))
        measured = f"{before.mean():.3f} to {after.mean():.3f}"
        yield Claim(title + name, asked_for, measured, bool(criterion(before, after)), len(seeds))


def hyperspectral(rows: Sequence[Row]) -> Iterator[Claim]:
    """Compare the best form of gating on Indian Pines, random split, to the figures that its paper suggests."""
    members = select(rows, task=PINES, method=BEST_CGT)
    title = f"{BEST_CGT}, {PINES}, {PINES_BUDGET:.0%} of the MACs: "
    quality = (title + "macro F1 / precision / recall", f">= 98% each, {POINT_ESTIMATE}")
    share = (title + "share of exit 0", f">= 70%, {POINT_ESTIMATE}")
    if not members:
        yield from (Claim(*quality), Claim(*share))
        return
    means = [at_budget(members, name, PINES_BUDGET) for name in ("macro_f1", "precision", "recall")]
    holds = all(values.mean() >= 0.98 for values in means)
    yield Claim(*quality, " / ".join(percent(values) for values in means), holds, len(members))
    first = at_budget(members, "exit_shares", PINES_BUDGET)[:, 0]
    yield Claim(*share, percent(first), bool(first.mean() >= 0.7), len(members))


def describe(comparison: Comparison) -> str:
    """Return the difference in points, its interval, and the deviation of the difference over seeds."""
    low, high = comparison.interval()
    text = f"{comparison.difference * 100:+.2f} points ({low * 100:+.2f} to {high * 100:+.2f})"
    spread = f" ±{np.std(comparison.by_seed, ddof=1) * 100:.2f}" if len(comparison.by_seed) > 1 else ""
    return f"{text}, seeds: {len(comparison.by_seed)}{spread}"


def _find_plain(comparisons: Sequence[Comparison], budget: float) -> Comparison | None:
    """Return the comparison of the default recipe with the plain network that costs about this budget."""
    rivals = (c for c in comparisons if (c.task, c.method, c.budget) == (MAIN_TASK, DEFAULT, budget))
    return next((rival for rival in rivals if rival.baseline in set(PLAIN) - {WHOLE_ALONE}), None)


def _find(comparisons: Sequence[Comparison], task: str, method: str, baseline: str, budget: float) -> Comparison | None:
    wanted = (task, method, baseline, budget)
    return next((c for c in comparisons if (c.task, c.method, c.baseline, c.budget) == wanted), None)


def _closes_gap(before: Values, after: Values) -> bool:
    return bool(((after - before) / (1 - before)).mean() >= 0.3)


def _always_higher(before: Values, after: Values) -> bool:
    return bool((after > before).all())


def _no_higher_mean(before: Values, after: Values) -> bool:
    return bool(after.mean() <= before.mean())


def _hardly_raised(before: Values, after: Values) -> bool:
    """Return whether the whole 95 % interval of the mean rise over seeds, by Student, is within the margin."""
    rise = after - before
    if len(rise) < 2:
        return False
    half_width = stdtrit(len(rise) - 1, 0.975) * np.std(rise, ddof=1) / np.sqrt(len(rise))
    return bool(rise.mean() + half_width <= FAITHFULNESS_MARGIN)
