"""The papers' claims beside what was measured: means over seeds, from the rows of `judge`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.papers.grid import ALPHA, OURS

Row = dict[str, Any]
Value = Callable[[Row], float]
BUDGETS = ("macs 0.3", "macs 0.5", "macs 0.7")
WITHIN = "drop 0.005"


@dataclass(frozen=True, slots=True)
class Claim:
    """One line of the table."""

    claim: str
    asked_for: str
    measured: str
    holds: bool


class Rows:
    """Rows to choose from, with values paired by seed."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Take all rows."""
        self._rows = rows

    def values(self, value: Value, **wanted: Any) -> np.ndarray:
        """Return a value of each row that has these fields, by seed in rising order."""
        found = [row for row in self._rows if all(row[name] == one for name, one in wanted.items())]
        return np.array([value(row) for row in sorted(found, key=lambda row: row["seed"])])

    def has(self, **wanted: Any) -> bool:
        """Return whether there is such a row."""
        return len(self.values(lambda row: 0.0, **wanted)) > 0


def claims_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table, without the claims whose runs are not among the rows."""
    every = Rows(rows)
    claims: list[Claim] = []
    if every.has(dataset="indian-pines", regime=OURS):
        claims += [
            macro_claim(every, OURS, "SoftCGT", 0.97),
            shares_claim(every),
        ]
    if every.has(dataset="indian-pines", regime="hard-cgt"):
        claims.append(macro_claim(every, "hard-cgt", "HardCGT", 0.95))
    if every.has(dataset="fashion-mnist", regime=OURS):
        claims += [gated_claim(every, budget) for budget in BUDGETS]
        claims += [equal_accuracy_claim(every), *speed_claims(every), both_claim(every)]
    for dataset in ("fashion-mnist", "fashion-mnist-small"):
        if every.has(dataset=dataset, alpha=ALPHA, regime="joint"):
            claims += consistency_claims(every, dataset)
    return [asdict(claim) for claim in claims]


def macro_claim(every: Rows, regime: str, name: str, goal: float) -> Claim:
    """Macro F1, precision and recall on Indian Pines with a random split."""
    found = [
        every.values(of(what), dataset="indian-pines", regime=regime, alpha=0.0, operating_point=WITHIN)
        for what in ("macro_f1", "precision", "recall")
    ]
    measured = " / ".join(percent(one) for one in found)
    holds = all(one.mean() >= goal for one in found)
    return Claim(f"{name}, Indian Pines: macro F1 / precision / recall", f">= {goal:.0%} each", measured, holds)


def shares_claim(every: Rows) -> Claim:
    """Exit shares at that operating point."""
    wanted = {"dataset": "indian-pines", "regime": OURS, "alpha": 0.0, "operating_point": WITHIN}
    first = every.values(lambda row: row["exit_shares"][0], **wanted)
    last = every.values(lambda row: row["exit_shares"][-1], **wanted)
    holds = bool(first.mean() >= 0.7 and last.mean() <= 0.1)
    return Claim(
        "... shares of the first and the last exit", ">= 70%, <= 10%", f"{percent(first)}, {percent(last)}", holds
    )


def gated_claim(every: Rows, budget: str) -> Claim:
    """SoftCGT against joint training at the same mean multiply-accumulates."""
    ours, joint = (
        every.values(of("accuracy"), dataset="fashion-mnist", regime=regime, alpha=0.0, operating_point=budget)
        for regime in (OURS, "joint")
    )
    gain = ours.mean() - joint.mean()
    beyond = gain > max(ours.std(ddof=1), joint.std(ddof=1)) if len(ours) > 1 else False
    holds = bool(gain > 0 and (beyond or budget != BUDGETS[0]))
    asked = "more accurate" + (" by more than a standard deviation" if budget == BUDGETS[0] else "")
    return Claim(
        f"SoftCGT against joint, Fashion-MNIST, {budget}", asked, f"{percent(ours)} against {percent(joint)}", holds
    )


def equal_accuracy_claim(every: Rows) -> Claim:
    """Accuracy with attention guidance against without, paired by seed."""
    differences = paired(every, "fashion-mnist", of("accuracy"), operating_point="whole")
    low, high = interval(differences)
    measured = f"{low:+.2%} to {high:+.2%}"
    return Claim(
        "EGT's accuracy against none: paired 95 % interval",
        "within ±0.5 points",
        measured,
        low >= -0.005 and high <= 0.005,
    )


def consistency_claims(every: Rows, dataset: str) -> list[Claim]:
    """Attention guidance: raw and centred consistency, entropy, faithfulness."""

    def with_and_without(value: Value) -> tuple[np.ndarray, np.ndarray]:
        wanted = {"dataset": dataset, "backbone": "cnn", "regime": "joint", "operating_point": "whole"}
        return every.values(value, alpha=ALPHA, **wanted), every.values(value, alpha=0.0, **wanted)

    raw, plain = with_and_without(mean_of("consistency_raw"))
    closed = (raw - plain) / (1 - plain)
    gain = (
        f"{percent(plain)} to {percent(raw)}, {closed.mean():.0%} of the gap, {(raw / plain - 1).mean():+.1%} relative"
    )
    centred, plain_centred = with_and_without(mean_of("consistency_centred"))
    entropy, plain_entropy = with_and_without(mean_of("map_entropy"))
    deletion, plain_deletion = with_and_without(mean_of("deletion"))
    insertion, plain_insertion = with_and_without(mean_of("insertion"))
    curves = f"{plain_deletion.mean():.3f} to {deletion.mean():.3f}, "
    curves += f"{plain_insertion.mean():.3f} to {insertion.mean():.3f}"
    unfaithful = max(deletion.mean() - plain_deletion.mean(), plain_insertion.mean() - insertion.mean())
    return [
        Claim(f"EGT, {dataset}: raw consistency", "half of the gap to 1 closed", gain, bool(closed.mean() >= 0.5)),
        Claim(
            "... mean-centred consistency",
            "higher on every seed",
            f"{percent(plain_centred)} to {percent(centred)}",
            bool((centred > plain_centred).all()),
        ),
        Claim(
            "... map entropy",
            "not raised",
            f"{plain_entropy.mean():.4f} to {entropy.mean():.4f}",
            bool(entropy.mean() <= plain_entropy.mean()),
        ),
        Claim(
            "... faithfulness: deletion (low is good), insertion (high is good)",
            "not worse",
            curves,
            bool(unfaithful <= spread(deletion - plain_deletion, insertion - plain_insertion)),
        ),
    ]


def speed_claims(every: Rows) -> list[Claim]:
    """Measured speed-up at half a point of accuracy, and truncated networks beside it."""
    wanted = {"dataset": "fashion-mnist", "regime": OURS, "alpha": ALPHA}
    speed = every.values(of("speedup_measured"), operating_point=WITHIN, **wanted)
    ours = every.values(of("accuracy"), operating_point=WITHIN, **wanted)
    claims = [
        Claim(
            "speed-up by exits, measured",
            ">= 2.5x",
            f"{speed.mean():.2f}x at {percent(ours)}",
            bool(speed.mean() >= 2.5),
        )
    ]
    for k in range(3):
        alone = {"dataset": "fashion-mnist", "truncated_at": k, "operating_point": "alone"}
        accuracy, rival = every.values(of("accuracy"), **alone), every.values(of("speedup_measured"), **alone)
        dominated = bool(
            any(
                every.values(of("accuracy"), operating_point=point, **wanted).mean() >= accuracy.mean()
                and every.values(of("speedup_measured"), operating_point=point, **wanted).mean() >= rival.mean()
                for point in (WITHIN, "whole", *BUDGETS)
            )
        )
        claims.append(
            Claim(
                f"... ahead of the network truncated at exit {k}, trained alone",
                "as accurate and faster",
                f"it: {percent(accuracy)} at {rival.mean():.2f}x",
                dominated,
            )
        )
    return claims


def both_claim(every: Rows) -> Claim:
    """EGT and SoftCGT together against the better of the two, at half the multiply-accumulates."""
    wanted = {"dataset": "fashion-mnist", "operating_point": BUDGETS[1]}
    both = every.values(of("accuracy"), regime=OURS, alpha=ALPHA, **wanted)
    gated = every.values(of("accuracy"), regime=OURS, alpha=0.0, **wanted)
    guided = every.values(of("accuracy"), regime="joint", alpha=ALPHA, **wanted)
    better = max(gated, guided, key=lambda values: float(values.mean()))
    measured = f"{percent(both)} against {percent(better)}"
    return Claim(
        "EGT and SoftCGT together, macs 0.5",
        "no worse than the better of the two",
        measured,
        bool(both.mean() >= better.mean() - spread(both - better)),
    )


def paired(every: Rows, dataset: str, value: Value, **wanted: Any) -> np.ndarray:
    """Return guided minus unguided values of joint and SoftCGT networks, one for each regime and seed."""
    return np.concatenate(
        [
            every.values(value, dataset=dataset, regime=regime, alpha=ALPHA, **wanted)
            - every.values(value, dataset=dataset, regime=regime, alpha=0.0, **wanted)
            for regime in ("joint", OURS)
        ]
    )


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a mean by Student's t; unbounded for a single value."""
    from scipy.stats import t

    if len(differences) < 2:
        return -float("inf"), float("inf")
    reach = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean() - reach), float(differences.mean() + reach)


def spread(*differences: np.ndarray) -> float:
    """Return the largest standard deviation of paired differences over seeds, 0 for a single seed."""
    return max(float(one.std(ddof=1)) if len(one) > 1 else 0.0 for one in differences)


def of(name: str) -> Value:
    """Return a function that takes a field of a row."""
    return lambda row: float(row[name])


def mean_of(name: str) -> Value:
    """Return a function that takes the mean over exits of a field of a row."""
    return lambda row: float(np.mean(row[name]))


def percent(values: np.ndarray) -> str:
    """Return a mean, with its spread over seeds where there are several."""
    return f"{values.mean():.2%}" + (f" ±{values.std(ddof=1) * 100:.2f}" if len(values) > 1 else "")
