"""What recorded scores prove about samples that were not recorded.

A path of operating points leads from exits never taken towards cheap ones; it was chosen without looking at the
samples it is judged by here. A method returns how far along the path it vouches for.

* `betting`: an upper confidence bound of the risk, by bets against it (Waudby-Smith and Ramdas 2024, as in Bates et
  al. 2021), at one point after the other until one is too high. Tests in a fixed order need no correction for their
  number, whether or not the risk grows along the path (Learn then Test, Angelopoulos et al. 2021).
* `hoeffding-bentkus`: the same with Learn then Test's own p-value. It knows losses from 0 to 1 only, so that answers
  the early exits save do not make up for those they lose.
* `expectation`: conformal risk control (Angelopoulos et al. 2024). The mean risk over all the samples one might have
  fitted to is within the limit, not that of these with some confidence.
* `none`: the risk on these samples, which proves nothing about others.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge.decision import Decisions, Scores

Losses = NDArray[np.float64]
"""From -1 to 1, shape (samples,), or (points, samples) along a path."""


def accuracy_gap(scores: Scores, decisions: Decisions, truth: NDArray[np.int64]) -> Losses:
    """Return 1 where early exits lose an answer the last exit has right, -1 where they save one, else 0."""
    lost: Losses = np.subtract(scores.label[-1] == truth, decisions.label == truth, dtype=np.float64)
    return lost


def disagreement(scores: Scores, decisions: Decisions, truth: NDArray[np.int64]) -> Losses:
    """Return 1 where the answer is not the last exit's, else 0."""
    other: Losses = np.not_equal(decisions.label, scores.label[-1]).astype(np.float64)
    return other


ROUNDING = 1e-12
RISKS: dict[str, Callable[[Scores, Decisions, NDArray[np.int64]], Losses]] = {
    "accuracy_gap": accuracy_gap,
    "disagreement": disagreement,
}


def betting_test(losses: Losses, limit: float, delta: float) -> bool:
    """Return whether the upper bound of the mean, at confidence `1 - doubt`, is at most `limit`.

    It is where the capital `K_i = prod_{j<=i} (1 - nu_j (L_j - limit))` ever reaches `1 / doubt`, which it does with
    probability `doubt` at most where the mean is above the limit. The bets
    `nu_j = min(1, sqrt(2 ln(1 / doubt) / (n var_{j-1})))` know the samples before only. Losses must not exceed 1.
    """
    seen = np.arange(1, len(losses) + 1)
    mean = (0.5 + losses.cumsum()) / (1 + seen)
    variance = (0.25 + ((losses - mean) ** 2).cumsum()) / (1 + seen)
    before = np.concatenate([[0.25], variance[:-1]])
    bets = np.minimum(1.0, np.sqrt(2 * math.log(1 / delta) / (len(losses) * before)))
    with np.errstate(divide="ignore"):  # everything was bet and lost
        capital = np.log1p(-bets * (losses - limit)).cumsum()
    return bool(capital.max(initial=0.0) >= math.log(1 / delta))


def hoeffding_bentkus_test(losses: Losses, limit: float, delta: float) -> bool:
    """Return whether a mean above `limit` is refuted at level `doubt`, negative losses taken for 0.

    `p = min(exp(-n h(min(r, limit), limit)), e P(Binomial(n, limit) <= ceil(n r)))`, `r` the mean on the samples and
    `h(a, b) = a ln(a / b) + (1 - a) ln((1 - a) / (1 - b))`.
    """
    count = len(losses)
    mean = float(np.maximum(losses, 0).mean())
    hoeffding = math.exp(-count * _divergence(min(mean, limit), limit))
    bentkus = math.e * binomial_cdf(math.ceil(round(count * mean, 9)), count, limit)
    return min(hoeffding, bentkus) <= delta


def fixed_sequence(test: Callable[[Losses, float, float], bool]) -> "RiskProcedure":
    """Return the method that follows a path until a point is not found to be below the limit."""

    def certify(path: Losses, limit: float, delta: float) -> NDArray[np.bool_]:
        certified = np.zeros(len(path), dtype=bool)
        for index, losses in enumerate(path):
            if not test(losses, limit, delta):
                break
            certified[index] = True
        return certified

    return certify


def conformal_risk_control(path: Losses, limit: float, delta: float) -> NDArray[np.bool_]:
    """Return the points conformal risk control allows: `(sum_i L_i + 1) / (n + 1) <= limit`.

    It asks for losses that never shrink along the path: a sample's largest loss so far takes their place.
    """
    risk = (np.maximum.accumulate(path, axis=0).sum(axis=1) + 1) / (path.shape[1] + 1)
    return np.asarray(risk <= limit + ROUNDING)


def empirical(path: Losses, limit: float, delta: float) -> NDArray[np.bool_]:
    """Return the points whose risk on these very samples is within the limit."""
    return np.asarray(path.mean(axis=1) <= limit + ROUNDING)


RiskProcedure = Callable[[Losses, float, float], NDArray[np.bool_]]
"""Takes losses along a path, the limit and the doubt; returns which points it vouches for."""
PROCEDURES: dict[str, RiskProcedure] = {
    "betting": fixed_sequence(betting_test),
    "hoeffding-bentkus": fixed_sequence(hoeffding_bentkus_test),
    "expectation": conformal_risk_control,
    "none": empirical,
}


HIGH_PROBABILITY_METHODS = ("betting", "hoeffding-bentkus")
"""Methods that promise with a confidence."""


MAX_SAMPLES = 1 << 20
"""Beyond which nobody is told a number."""


def min_samples(certify: RiskProcedure, limit: float, delta: float) -> int | None:
    """Return how many samples without any loss it takes to be vouched for; None: more than `MOST_SAMPLES`."""
    few, enough = 0, 1
    while not _lossless(certify, enough, limit, delta):
        few, enough = enough, 2 * enough
        if enough > MAX_SAMPLES:
            return None
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if _lossless(certify, middle, limit, delta) else (middle, enough)
    return enough


def _lossless(certify: RiskProcedure, count: int, limit: float, delta: float) -> bool:
    return bool(certify(np.zeros((1, count)), limit, delta)[0])


def _divergence(a: float, b: float) -> float:
    first = a * math.log(a / b) if a > 0 else 0.0
    return first + ((1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0)


def binomial_cdf(successes: int, trials: int, probability: float) -> float:
    """Return P(X <= successes) for X binomial; the probability is strictly between 0 and 1."""
    k = np.arange(min(successes, trials) + 1)
    steps = np.log((trials - k[:-1]) / (k[:-1] + 1))  # of ln C(trials, k) from one k to the next
    choose = np.concatenate([[0.0], steps.cumsum()])
    terms = choose + k * math.log(probability) + (trials - k) * math.log1p(-probability)
    return float(min(1.0, np.exp(terms).sum()))
