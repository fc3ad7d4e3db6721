"""Statistical bounds on the risk of early exits, from recorded scores.

A procedure tests candidate thresholds on a certification split and certifies those whose risk is within a limit. The
candidates are a fixed sequence, from early exits never taken to the first exit always taken; it must have been chosen
without the certification split.

* `exact`: tests each candidate's mean loss with the exact distribution of losses of -1, 0 and 1, and stops at the first
  failure. Testing in a fixed order needs no correction for multiple tests, even where the risk does not grow along the
  sequence (Learn then Test, Angelopoulos et al. 2021).
* `betting`: the same with an upper confidence bound by betting (Waudby-Smith and Ramdas 2024, as in Bates et al. 2021),
  for any losses up to 1.
* `hoeffding-bentkus`: the same with the p-value of Learn then Test. It requires losses from 0 to 1, so predictions that
  early exits correct do not offset those they lose.
* `expectation`: conformal risk control (Angelopoulos et al. 2024). The limit bounds the expected risk over random
  certification splits, not the risk of a given one with some confidence.
* `none`: the empirical risk on the certification split, without a guarantee for other samples.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge.decision import Decisions, Scores

T = TypeVar("T")

ROUNDING = 1e-12
BOUND_TOLERANCE = 1e-9
MAX_SEARCHED_SAMPLES = 1 << 20
NUISANCE_SHARE = 0.2
"""Share of delta that `exact_test` spends on its bound on the number of losses that are not 0."""

Losses = NDArray[np.float64]
"""Losses from -1 to 1, shape (samples,)."""
LossFunction = Callable[[Scores, Decisions, NDArray[np.int64]], Losses]
"""Takes scores, the decisions on them and the true labels; returns each sample's loss."""
MeanTest = Callable[[Losses, float, float], bool]
"""Takes one candidate's losses, the limit and delta; returns True if a mean above the limit is rejected."""


class CandidateLosses(Protocol):
    """The losses of each candidate of a sequence: an array of shape (candidates, samples), or `LazyLosses`."""

    def __len__(self) -> int:
        """Return the number of candidates."""

    def __iter__(self) -> Iterator[Losses]:
        """Yield each candidate's losses."""


class LazyLosses(Generic[T]):
    """Losses that are computed when a procedure asks for them: those of all candidates would fill the memory."""

    def __init__(self, losses_of: Callable[[T], Losses], candidates: Sequence[T] | NDArray[Any]) -> None:
        """Compute nothing yet."""
        self._losses_of, self._candidates = losses_of, candidates

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self._candidates)

    def __iter__(self) -> Iterator[Losses]:
        """Yield each candidate's losses."""
        return map(self._losses_of, self._candidates)


RiskProcedure = Callable[[CandidateLosses, float, float], NDArray[np.bool_]]
"""Takes the losses of all candidates, the limit and delta; returns True for each certified candidate."""


def accuracy_gap(scores: Scores, decisions: Decisions, truth: NDArray[np.int64]) -> Losses:
    """Return 1 where only the last exit is right, -1 where only the early exit is, else 0."""
    lost: Losses = np.subtract(scores.label[-1] == truth, decisions.label == truth, dtype=np.float64)
    return lost


def disagreement(scores: Scores, decisions: Decisions, truth: NDArray[np.int64]) -> Losses:
    """Return 1 where the label differs from the last exit's, else 0."""
    differs: Losses = np.not_equal(decisions.label, scores.label[-1]).astype(np.float64)
    return differs


RISKS: dict[str, LossFunction] = {"accuracy_gap": accuracy_gap, "disagreement": disagreement}


def exact_test(losses: Losses, limit: float, delta: float) -> bool:
    """Test the mean of losses of -1, 0 and 1 by the exact distribution of their sum.

    The distribution depends on the mean and on the share `q` of losses that are not 0. As in Berger and Boos (1994),
    the p-value is the largest over all `q` up to a Clopper-Pearson bound, plus the probability with which that bound is
    exceeded. Of the means above the limit, those next to it make small sums likeliest; they require `q >= limit`. The
    largest value is at the bound: the derivative of `P(sum <= total)` by `q` has the sign of
    `P(sum' = total + 1) - P(sum' = total)`, with one sample fewer, and for `q <= 1/2` that distribution, of a sum of
    Bernoulli variables, rises up to its mean less 1 (Darroch 1964).
    """
    count, total, nonzero = len(losses), int(losses.sum()), int(np.count_nonzero(losses))
    if total > limit * (count - 1) - 2:
        return False
    nuisance_delta = NUISANCE_SHARE * delta
    bound = clopper_pearson_bound(nonzero, count, nuisance_delta)
    if bound < limit:
        return True
    return bound <= 0.5 and _ternary_sum_cdf(total, count, limit, bound) <= delta - nuisance_delta


def betting_test(losses: Losses, limit: float, delta: float) -> bool:
    """Test a mean loss by betting against values above `limit`.

    The capital `K_i = prod_{j<=i} (1 - nu_j (L_j - limit))` reaches `1 / delta` with probability at most `delta` if the
    mean is above the limit, so a mean above the limit is rejected as soon as it does. The bets
    `nu_j = min(1, sqrt(2 ln(1 / delta) / (n var_{j-1})))` depend on earlier samples only. Losses must not exceed 1.
    """
    count = np.arange(1, len(losses) + 1)
    mean = (0.5 + losses.cumsum()) / (1 + count)
    variance = (0.25 + ((losses - mean) ** 2).cumsum()) / (1 + count)
    previous_variance = np.concatenate([[0.25], variance[:-1]])
    bets = np.minimum(1.0, np.sqrt(2 * math.log(1 / delta) / (len(losses) * previous_variance)))
    with np.errstate(divide="ignore"):  # log(0): all capital was bet and lost
        log_capital = np.log1p(-bets * (losses - limit)).cumsum()
    return bool(log_capital.max(initial=0.0) >= math.log(1 / delta))


def hoeffding_bentkus_test(losses: Losses, limit: float, delta: float) -> bool:
    """Test a mean loss by the Hoeffding-Bentkus p-value; negative losses count as 0.

    `p = min(exp(-n h(min(r, limit), limit)), e P(Binomial(n, limit) <= ceil(n r)))`, where `r` is the mean of `n`
    losses and `h(a, b) = a ln(a / b) + (1 - a) ln((1 - a) / (1 - b))`.
    """
    count = len(losses)
    mean = float(np.maximum(losses, 0).mean())
    hoeffding = math.exp(-count * _kl_divergence(min(mean, limit), limit))
    bentkus = math.e * binomial_cdf(math.ceil(round(count * mean, 9)), count, limit)
    return min(hoeffding, bentkus) <= delta


def fixed_sequence(rejects: MeanTest, losses: CandidateLosses, limit: float, delta: float) -> NDArray[np.bool_]:
    """Certify candidates in order until the first whose test fails."""
    certified = np.zeros(len(losses), dtype=bool)
    for index, candidate_losses in enumerate(losses):
        if not rejects(candidate_losses, limit, delta):
            break
        certified[index] = True
    return certified


def conformal_risk_control(losses: CandidateLosses, limit: float, delta: float) -> NDArray[np.bool_]:
    """Certify candidates with `(sum_i L_i + 1) / (n + 1) <= limit`.

    The bound requires losses that never decrease along the sequence, so each loss is replaced by the sample's largest
    loss so far.
    """
    largest = accumulate(losses, np.maximum)
    return np.array([(each.sum() + 1) / (len(each) + 1) <= limit + ROUNDING for each in largest], dtype=bool)


def empirical(losses: CandidateLosses, limit: float, delta: float) -> NDArray[np.bool_]:
    """Return True for candidates whose mean loss on these samples is within the limit."""
    return np.array([each.mean() <= limit + ROUNDING for each in losses], dtype=bool)


PROCEDURES: dict[str, RiskProcedure] = {
    "exact": partial(fixed_sequence, exact_test),
    "betting": partial(fixed_sequence, betting_test),
    "hoeffding-bentkus": partial(fixed_sequence, hoeffding_bentkus_test),
    "expectation": conformal_risk_control,
    "none": empirical,
}
HIGH_PROBABILITY_METHODS = ("exact", "betting", "hoeffding-bentkus")
"""Procedures whose certificate holds with probability `1 - delta`; the others ignore delta."""


def certifies_lossless(certify: RiskProcedure, samples: int, limit: float, delta: float) -> bool:
    """Return True if so many samples without loss certify a candidate; fewer certify none."""
    return samples > 0 and bool(certify(np.zeros((1, samples)), limit, delta)[0])


def min_samples(certify: RiskProcedure, limit: float, delta: float) -> int | None:
    """Return the smallest number of samples without loss that certifies a candidate.

    None if it exceeds `MAX_SEARCHED_SAMPLES`.
    """
    too_few, enough = 0, 1
    while not certifies_lossless(certify, enough, limit, delta):
        too_few, enough = enough, 2 * enough
        if enough > MAX_SEARCHED_SAMPLES:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if certifies_lossless(certify, middle, limit, delta):
            enough = middle
        else:
            too_few = middle
    return enough


def binomial_cdf(successes: int, trials: int, probability: float) -> float:
    """Return P(X <= successes) for X ~ Binomial(trials, probability), with 0 < probability < 1."""
    k = np.arange(min(successes, trials) + 1)
    steps = np.log((trials - k[:-1]) / (k[:-1] + 1))  # ln C(trials, k + 1) - ln C(trials, k)
    log_choose = np.concatenate([[0.0], steps.cumsum()])
    log_terms = log_choose + k * math.log(probability) + (trials - k) * math.log1p(-probability)
    return float(min(1.0, np.exp(log_terms).sum()))


@lru_cache(maxsize=1 << 14)  # many candidates have equally many losses
def clopper_pearson_bound(successes: int, trials: int, delta: float) -> float:
    """Return an upper bound on a probability that holds with probability `1 - delta` (Clopper and Pearson 1934).

    It is the probability with which so few successes are as unlikely as `delta`.
    """
    low, high = successes / trials, 1.0
    while high - low > BOUND_TOLERANCE:
        middle = (low + high) / 2
        if binomial_cdf(successes, trials, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def _ternary_sum_cdf(total: int, count: int, mean: float, nonzero: float) -> float:
    """Return `P(sum <= total)` of independent values -1, 0 and 1, from the Fourier transform of their distribution.

    Args:
        total: The sum.
        count: Number of values.
        mean: Mean of a value.
        nonzero: Probability of a value other than 0.
    """
    deviation = math.sqrt(count * (nonzero - mean**2))
    window = 1 << math.ceil(math.log2(20 * deviation + 120))  # by Bernstein's bound, less than 1e-20 is outside
    rotation = np.exp(-2j * np.pi * np.arange(window) / window)
    up, down = (nonzero + mean) / 2, (nonzero - mean) / 2
    probability = np.fft.ifft((1 - nonzero + up * rotation + down * rotation.conj()) ** count).real
    sums = np.arange(window) + math.floor(count * mean) - window // 2
    return float(probability[sums[sums <= total] % window].sum())


def _kl_divergence(a: float, b: float) -> float:
    """Return the Kullback-Leibler divergence of Bernoulli(a) from Bernoulli(b)."""
    first = a * math.log(a / b) if a > 0 else 0.0
    return first + ((1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0)
