"""The papers' claims beside what was measured: means over seeds, from the rows of `judge`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.papers.grid import ALPHA, EXITS, OURS
from benchmarks.papers.rows import Row, Rows, interval, mean_over_exits, percent, spread

BUDGETS = ("macs 0.3", "macs 0.5", "macs 0.7")
WITHIN, WHOLE = "drop 0.005", "whole"
PINES, FASHION, SMALL = "indian-pines", "fashion-mnist", "fashion-mnist-small"


@dataclass(frozen=True, slots=True)
class Claim:
    """One line of the table."""

    claim: str
    asked_for: str
    measured: str
    holds: bool


def claims_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table, without the claims whose runs are not among the rows."""
    found = Rows(rows)
    claims: list[Claim] = []
    if found.have(PINES, (OURS, 0.0)):
        claims += [macro_means(found, OURS, 0.97), exit_shares(found)]
    if found.have(PINES, ("hard-cgt", 0.0)):
        claims.append(macro_means(found, "hard-cgt", 0.95))
    if found.have(FASHION, (OURS, 0.0), ("joint", 0.0)):
        claims += [gated_against_joint(found, budget) for budget in BUDGETS]
    for dataset in (FASHION, SMALL):
        if found.have(dataset, ("joint", 0.0), ("joint", ALPHA)):
            claims += consistency(found, dataset)
    if found.have(FASHION, (OURS, 0.0), ("joint", 0.0), (OURS, ALPHA), ("joint", ALPHA)):
        claims += [accuracy_of_guided(found), speedup(found), *ahead_of_truncated(found), both_together(found)]
    return [asdict(claim) for claim in claims]


def macro_means(found: Rows, regime: str, goal: float) -> Claim:
    """Macro F1, precision and recall on Indian Pines with a random split."""
    wanted = {"dataset": PINES, "regime": regime, "alpha": 0.0, "operating_point": WITHIN}
    means = [found.values(name, **wanted) for name in ("macro_f1", "precision", "recall")]
    measured = " / ".join(percent(values) for values in means)
    holds = all(values.mean() >= goal for values in means)
    return Claim(f"{regime}, {PINES}: macro F1 / precision / recall", f">= {goal:.0%} each", measured, holds)


def exit_shares(found: Rows) -> Claim:
    """Exit shares at that operating point."""
    wanted = {"dataset": PINES, "regime": OURS, "alpha": 0.0, "operating_point": WITHIN}
    first = found.values(lambda row: row["exit_shares"][0], **wanted)
    last = found.values(lambda row: row["exit_shares"][-1], **wanted)
    measured = f"{percent(first)}, {percent(last)}"
    holds = bool(first.mean() >= 0.7 and last.mean() <= 0.1)
    return Claim(f"{OURS}, {PINES}: share of the first, of the last exit", ">= 70 %, <= 10 %", measured, holds)


def gated_against_joint(found: Rows, budget: str) -> Claim:
    """Confidence gating against joint training at the same mean multiply-accumulates."""
    ours, joint = (
        found.values("accuracy", dataset=FASHION, regime=regime, alpha=0.0, operating_point=budget)
        for regime in (OURS, "joint")
    )
    gain, asked = ours.mean() - joint.mean(), "more accurate"
    holds = bool(gain > 0)
    if budget == BUDGETS[0]:
        asked += " by more than a standard deviation"
        holds = len(ours) > 1 and bool(gain > max(ours.std(ddof=1), joint.std(ddof=1)))
    return Claim(f"{OURS} against joint, {FASHION}, {budget}", asked, f"{percent(ours)}, {percent(joint)}", holds)


def consistency(found: Rows, dataset: str) -> list[Claim]:
    """Attention guidance: raw and centred consistency, entropy, faithfulness."""

    def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
        wanted = {"dataset": dataset, "regime": "joint", "operating_point": WHOLE}
        value = mean_over_exits(name)
        return found.values(value, alpha=ALPHA, **wanted), found.values(value, alpha=0.0, **wanted)

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
    holds = max(one.mean() for one in worse) <= spread(*worse)
    claims.append(
        Claim("... faithfulness: deletion (low is good), insertion (high is good)", "not worse", measured, bool(holds))
    )
    return claims


def accuracy_of_guided(found: Rows) -> Claim:
    """Accuracy with attention guidance against without, paired by regime and seed."""
    differences = [
        found.values("accuracy", dataset=FASHION, regime=regime, alpha=ALPHA, operating_point=WHOLE)
        - found.values("accuracy", dataset=FASHION, regime=regime, alpha=0.0, operating_point=WHOLE)
        for regime in ("joint", OURS)
    ]
    low, high = interval(np.concatenate(differences))
    holds = low >= -0.005 and high <= 0.005
    return Claim(
        "EGT against none: paired 95 % interval of accuracy", "within ±0.5 points", f"{low:+.2%} to {high:+.2%}", holds
    )


def speedup(found: Rows) -> Claim:
    """Measured speed-up at half a point of accuracy."""
    wanted = {"dataset": FASHION, "regime": OURS, "alpha": ALPHA, "operating_point": WITHIN}
    speed, accuracy = found.values("speedup_measured", **wanted), found.values("accuracy", **wanted)
    measured = f"{speed.mean():.2f}x at {percent(accuracy)}"
    return Claim("speed-up by exits, measured", ">= 2.5x", measured, bool(speed.mean() >= 2.5))


def ahead_of_truncated(found: Rows) -> list[Claim]:
    """Is there an operating point as accurate and as fast as each network truncated and trained alone?"""
    ours = {"dataset": FASHION, "regime": OURS, "alpha": ALPHA}
    points = [
        [found.values(name, operating_point=point, **ours).mean() for name in ("accuracy", "speedup_measured")]
        for point in (WITHIN, WHOLE, *BUDGETS)
    ]
    claims = []
    for k in range(EXITS):
        rival = {"dataset": FASHION, "truncated_at": k}
        accuracy, speed = (found.values(name, **rival) for name in ("accuracy", "speedup_measured"))
        holds = any(one >= accuracy.mean() and fast >= speed.mean() for one, fast in points)
        measured = f"it: {percent(accuracy)} at {speed.mean():.2f}x"
        claims.append(
            Claim(f"... ahead of the network truncated at exit {k}", "as accurate and faster", measured, holds)
        )
    return claims


def both_together(found: Rows) -> Claim:
    """Both methods together against the better of the two, at half the multiply-accumulates."""
    wanted = {"dataset": FASHION, "operating_point": BUDGETS[1]}
    both, gated, guided = (
        found.values("accuracy", regime=regime, alpha=alpha, **wanted)
        for regime, alpha in ((OURS, ALPHA), (OURS, 0.0), ("joint", ALPHA))
    )
    better = max(gated, guided, key=lambda values: float(values.mean()))
    holds = bool(both.mean() >= better.mean() - spread(both - better))
    measured = f"{percent(both)}, {percent(better)}"
    return Claim(f"EGT and {OURS} together, {BUDGETS[1]}", "no worse than the better one", measured, holds)
