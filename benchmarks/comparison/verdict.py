"""The verdict on two sides that took turns: never within the noise floor, and only with a second pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.measure.statistics import Estimate, Quartiles, quartiles, ratio_estimate

Verdict = Literal["slower", "faster", "level"]
Times = NDArray[np.float64]
"""Mean time of a frame in each turn, in milliseconds, shape (launches, rounds)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Side B against side A, measured in one pass."""

    a_ms: Quartiles
    b_ms: Quartiles
    control_ms: Quartiles
    a_over_itself: Estimate
    """Times of A, loaded a second time, over those of A."""
    b_over_a: Estimate

    @property
    def noise_floor(self) -> float:
        """Largest relative difference between two loads of A that the measurement does not exclude."""
        return max(self.a_over_itself.high - 1, 1 - self.a_over_itself.low)

    @property
    def verdict(self) -> Verdict:
        """Direction of a difference beyond the noise floor whose interval excludes equality; else `level`."""
        if self.b_over_a.low > 1 and self.b_over_a.value > 1 + self.noise_floor:
            return "slower"
        if self.b_over_a.high < 1 and self.b_over_a.value < 1 - self.noise_floor:
            return "faster"
        return "level"


def compare_times(a: Times, a_again: Times, b: Times, control: Times) -> Comparison:
    """Return the comparison of times that were measured in the same rounds."""
    return Comparison(quartiles(a), quartiles(b), quartiles(control), ratio_estimate(a_again, a), ratio_estimate(b, a))


def confirmed(passes: Sequence[Comparison]) -> Verdict:
    """Return the verdict that every pass confirms; `level` after a single pass, or where passes differ."""
    verdicts = {one_pass.verdict for one_pass in passes}
    return passes[0].verdict if len(passes) > 1 and len(verdicts) == 1 else "level"
