"""Anytime-valid tests of a mean by betting: they may be looked at after every value, for as long as values come.

The null hypothesis is that each value's mean, given all values before it, is at most the value's bound. A gambler who
bets against it multiplies the capital by `1 + stake (value - bound)`, whose mean is then at most 1, so the capital is a
nonnegative supermartingale that starts at 1. It ever reaches `1 / alpha` with probability at most `alpha` (Ville 1939),
so an alarm at this capital is false with probability at most `alpha` over the whole run, however long it is.

See Waudby-Smith and Ramdas (2024) for betting, Podkopaev and Ramdas (2022), arXiv 2506.16416 and arXiv 2602.02229 for
the risk of deployed models, and Shin, Ramdas and Rinaldo (2024) for the mixture over moments of change.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

RATIOS = np.array([1.1, 1.25, 1.5, 2.0, 3.0, 5.0])
"""Ratios of the mean to the bound that are bet on, each with the same share of the capital."""
MAX_LOSS = 0.5
"""Largest share of a bet that one value can lose."""


class BettingProcess:
    """Capital of gamblers who bet that means exceed their bounds.

    Value `t` releases `1 / (t (t + 1))` of the capital for bets; the rest waits in reserve. Bets placed from the start
    have nothing left after a long time within the bound; those placed later detect a change that comes later.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        """Give each gambler, of an array of this shape, a capital of 1."""
        self.values = 0
        """Values so far, of each gambler."""
        self._bets = np.zeros((*shape, len(RATIOS)))

    @property
    def capital(self) -> NDArray[np.float64]:
        """Capital of each gambler. The mean over gamblers of the same values is the capital of a gambler, too."""
        return np.asarray(self._bets.sum(axis=-1) + 1 / (self.values + 1))

    def add(self, values: ArrayLike, bounds: ArrayLike) -> None:
        """Bet on values from 0 to 1, whose bounds may depend on everything before them.

        On values that are 0 or 1, the bet on a ratio is the likelihood ratio of the means `ratio * bound` and `bound`,
        unless `MAX_LOSS` limits the stake.

        Args:
            values: A value for each gambler.
            bounds: Upper bounds from 0 to 1 on the values' means, for each gambler or all.
        """
        self.values += 1
        bound = np.asarray(bounds, dtype=np.float64)[..., None]
        with np.errstate(divide="ignore"):  # infinite stakes at the bounds 0 and 1, of which the other term is taken
            stakes = np.minimum((RATIOS - 1) / (1 - bound), MAX_LOSS / bound)
        released = 1 / (self.values * (self.values + 1) * len(RATIOS))
        self._bets += released
        self._bets *= 1 + stakes * (np.asarray(values, dtype=np.float64)[..., None] - bound)
