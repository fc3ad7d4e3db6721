"""The papers' claims and the measured values: means over seeds, from the rows of `evaluate_group`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.papers.grid import ALPHA, EXITS, OURS
from benchmarks.papers.rows import Row, Rows, confidence_interval, largest_deviation, mean_over_exits, percent

BUDGETS = ("macs 0.3", "macs 0.5", "macs 0.7")
WITHIN, WHOLE = "drop 0.005", "whole"
"""Operating points: thresholds that lose half a point of accuracy, and no early exits."""
PINES, FASHION, SMALL = "indian-pines", "fashion-mnist", "fashion-mnist-small"


@dataclass(frozen=True, slots=True)
class Claim:
    """A line of the table of claims."""

    claim: str
    asked_for: str
    measured: str
    holds: bool


def claims_of(all_rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table of claims. Claims about runs without rows are left out."""
    rows = Rows(all_rows)
    claims: list[Claim] = []
    if rows.have(PINES, (OURS, 0.0)):
        claims += [macro_means(rows, OURS, 0.97), exit_shares(rows)]
    if rows.have(PINES, ("hard-cgt", 0.0)):
        claims.append(macro_means(rows, "hard-cgt", 0.95))
    if rows.have(FASHION, (OURS, 0.0), ("joint", 0.0)):
        claims += [gated_against_joint(rows, budget) for budget in BUDGETS]
    for dataset in (FASHION, SMALL):
        if rows.have(dataset, ("joint", 0.0), ("joint", ALPHA)):
            claims += consistency(rows, dataset)
    if rows.have(FASHION, (OURS, 0.0), ("joint", 0.0), (OURS, ALPHA), ("joint", ALPHA)):
        claims += [accuracy_of_guided(rows), speedup(rows), *ahead_of_truncated(rows), both_together(rows)]
    return [asdict(claim) for claim in claims]


def macro_means(rows: Rows, regime: str, goal: float) -> Claim:
    """Compare macro F1, precision and recall on Indian Pines, with random splits, to the paper's."""
    fields = {"dataset": PINES, "regime": regime, "alpha": 0.0, "operating_point": WITHIN}
    means = [rows.values(name, **fields) for name in ("macro_f1", "precision", "recall")]
    measured = " / ".join(percent(values) for values in means)
    holds = all(values.mean() >= goal for values in means)
    return Claim(f"{regime}, {PINES}: macro F1 / precision / recall", f">= {goal:.0%} each", measured, holds)


def exit_shares(rows: Rows) -> Claim:
    """Compare the shares of the first and the last exit at that operating point to the paper's."""
    fields = {"dataset": PINES, "regime": OURS, "alpha": 0.0, "operating_point": WITHIN}
    first = rows.values(lambda row: row["exit_shares"][0], **fields)
    last = rows.values(lambda row: row["exit_shares"][-1], **fields)
    measured = f"{percent(first)}, {percent(last)}"
    holds = bool(first.mean() >= 0.7 and last.mean() <= 0.1)
    return Claim(f"{OURS}, {PINES}: share of the first, of the last exit", ">= 70 %, <= 10 %", measured, holds)


def gated_against_joint(rows: Rows, budget: str) -> Claim:
    """Compare confidence gating to joint training at the same mean multiply-accumulates."""
    ours, joint = (
        rows.values("accuracy", dataset=FASHION, regime=regime, alpha=0.0, operating_point=budget)
        for regime in (OURS, "joint")
    )
    gain, asked = ours.mean() - joint.mean(), "more accurate"
    holds = bool(gain > 0)
    if budget == BUDGETS[0]:
        asked += " by more than a standard deviation"
        holds = len(ours) > 1 and bool(gain > max(ours.std(ddof=1), joint.std(ddof=1)))
    return Claim(f"{OURS} against joint, {FASHION}, {budget}", asked, f"{percent(ours)}, {percent(joint)}", holds)


def consistency(rows: Rows, dataset: str) -> list[Claim]:
    """Compare consistency, entropy and faithfulness of attention maps with guidance to those without."""

    def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
        fields = {"dataset": dataset, "regime": "joint", "operating_point": WHOLE}
        value = mean_over_exits(name)
        return rows.values(value, alpha=ALPHA, **fields), rows.values(value, alpha=0.0, **fields)

    raw, plain = pair("consistency_raw")
    closed, relative = ((raw - plain) / (1 - plain)).mean(), (raw / plain - 1).mean()
    measured = f"{percent(plain)} to {percent(raw)}: {closed:.0%} of the gap, {relative:+.1%} relative"
    claims = [Claim(f"EGT, {dataset}: raw consistency", "half of the gap to 1", measured, bool(closed >= 0.5))]

    centred, plain = pair("consistency_centred")
    measured, holds = f"{percent(plain)} to {percent(centred)}", bool((centred > plain).all())
    claims.append(Claim("... mean-centred consistency", "higher on every seed", measured, holds))

    entropy, plain = pair("map_entropy")
    measured, holds = f"{plain.mean():.4f} to {entropy.mean():.4f}", bool(entropy.mean() <= plain.mean())
    claims.append(Claim("... map entropy", "not raised", measured, holds))

    (deletion, deletion_plain), (insertion, insertion_plain) = pair("deletion"), pair("insertion")
    worse = deletion - deletion_plain, insertion_plain - insertion
    measured = f"{deletion_plain.mean():.3f} to {deletion.mean():.3f}, "
    measured += f"{insertion_plain.mean():.3f} to {insertion.mean():.3f}"
    holds = max(differences.mean() for differences in worse) <= largest_deviation(*worse)
    claims.append(
        Claim("... faithfulness: deletion (low is good), insertion (high is good)", "not worse", measured, bool(holds))
    )
    return claims


def accuracy_of_guided(rows: Rows) -> Claim:
    """Compare accuracy with attention guidance to accuracy without, paired by regime and seed."""
    differences = [
        rows.values("accuracy", dataset=FASHION, regime=regime, alpha=ALPHA, operating_point=WHOLE)
        - rows.values("accuracy", dataset=FASHION, regime=regime, alpha=0.0, operating_point=WHOLE)
        for regime in ("joint", OURS)
    ]
    low, high = confidence_interval(np.concatenate(differences))
    holds = low >= -0.005 and high <= 0.005
    return Claim(
        "EGT against none: paired 95 % interval of accuracy", "within ±0.5 points", f"{low:+.2%} to {high:+.2%}", holds
    )


def speedup(rows: Rows) -> Claim:
    """Compare the measured speed-up, at an accuracy drop of half a point, to the target."""
    fields = {"dataset": FASHION, "regime": OURS, "alpha": ALPHA, "operating_point": WITHIN}
    speed, accuracy = rows.values("speedup_measured", **fields), rows.values("accuracy", **fields)
    measured = f"{speed.mean():.2f}x at {percent(accuracy)}"
    return Claim("speed-up by exits, measured", ">= 2.5x", measured, bool(speed.mean() >= 2.5))


def ahead_of_truncated(rows: Rows) -> list[Claim]:
    """Look for an operating point that is as accurate and as fast as each network truncated and trained alone."""
    ours = {"dataset": FASHION, "regime": OURS, "alpha": ALPHA}
    points = [
        [rows.values(name, operating_point=point, **ours).mean() for name in ("accuracy", "speedup_measured")]
        for point in (WITHIN, WHOLE, *BUDGETS)
    ]
    claims = []
    for k in range(EXITS):
        rival = {"dataset": FASHION, "truncated_at": k}
        accuracy, speed = (rows.values(name, **rival) for name in ("accuracy", "speedup_measured"))
        holds = any(
            point_accuracy >= accuracy.mean() and point_speed >= speed.mean() for point_accuracy, point_speed in points
        )
        measured = f"it: {percent(accuracy)} at {speed.mean():.2f}x"
        claims.append(
            Claim(f"... ahead of the network truncated at exit {k}", "as accurate and faster", measured, holds)
        )
    return claims


def both_together(rows: Rows) -> Claim:
    """Compare both methods together to the better of the two, at half the multiply-accumulates."""
    fields = {"dataset": FASHION, "operating_point": BUDGETS[1]}
    both, gated, guided = (
        rows.values("accuracy", regime=regime, alpha=alpha, **fields)
        for regime, alpha in ((OURS, ALPHA), (OURS, 0.0), ("joint", ALPHA))
    )
    better = max(gated, guided, key=lambda values: float(values.mean()))
    holds = bool(both.mean() >= better.mean() - largest_deviation(both - better))
    measured = f"{percent(both)}, {percent(better)}"
    return Claim(f"EGT and {OURS} together, {BUDGETS[1]}", "no worse than the better one", measured, holds)
