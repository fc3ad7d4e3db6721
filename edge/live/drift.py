"""Tests of a source's audited frames: disagreement with the last exit, exit shares, and latency.

Each test holds its frames to a bound and raises an alarm that is false with probability at most `FALSE_ALARM_RATE`, for
one source over the whole run. The bounds are those of the candidate that each frame was classified with.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.bundle.bundle import Bundle
from edge.decision import decide, validate_thresholds
from edge.live.messages import Alarm, AlarmKind, Audit
from edge.sequential import BettingProcess

FALSE_ALARM_RATE = 0.01
EXIT_SHARE_TOLERANCE = 0.1
"""Difference of an exit's share from that on the threshold-fitting split that is not an alarm."""
LATE_SHARE = 0.05
"""Share of frames that may miss the deadline: its 95th percentile is to be within it."""
RECENT = 500
"""Last audited frames that the reason of an alarm is about."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Behaviour of a candidate on frames like those that it was certified on."""

    disagreement: float
    """Upper bound on the share of predictions that differ from the last exit's."""
    exit_shares: tuple[float, ...] | None
    """Share of each exit on the threshold-fitting split; None if the thresholds were fitted to other samples."""


Expectations = Mapping[tuple[float, ...], Expected]
"""Expected behaviour by the thresholds of each candidate."""


def expectations(bundle: Bundle, precision: str) -> Expectations:
    """Return the expected behaviour under each candidate that has a bound on the disagreement.

    Raises:
        BundleError: the bundle does not have this precision, or its scores are damaged.
    """
    fitted, exits = bundle.precision(precision).thresholds, len(bundle.manifest.exits)
    scores = (
        bundle.scores(precision).scores if fitted.split == bundle.manifest.splits["thresholds"].fingerprint else None
    )
    expected: dict[tuple[float, ...], Expected] = {}
    for candidate in fitted.candidates:
        if candidate.disagreement_bound is not None:
            values, shares = validate_thresholds(candidate.values, exits), None
            if scores is not None:
                exit_index = decide(scores, values).exit_index
                shares = tuple((np.bincount(exit_index, minlength=exits) / len(exit_index)).tolist())
            expected[tuple(values.tolist())] = Expected(candidate.disagreement_bound, shares)
    return expected


class AuditTest(Protocol):
    """A test of audited frames."""

    kind: AlarmKind

    def add(self, audit: Audit, expected: Expected) -> str | None:
        """Test a further frame; return the reason of an alarm, or None."""


class SourceTests:
    """All tests of a source. A test ends with its alarm."""

    def __init__(self, expected: Expectations, deadline_ms: float | None) -> None:
        """Hold frames to the expectations, and latencies to the deadline if there is one."""
        self._expected, self._audited = expected, 0
        self._tests: list[AuditTest] = [DisagreementTest(), ExitSharesTest()]
        if deadline_ms is not None:
            self._tests.append(LatencyTest(deadline_ms))

    def add(self, audit: Audit) -> list[Alarm]:
        """Return the alarms that a further frame raises; frames with thresholds of no candidate are not tested."""
        expected = self._expected.get(audit.result.thresholds)
        if expected is None:
            return []
        self._audited += 1
        alarms = []
        for test in list(self._tests):
            if (reason := test.add(audit, expected)) is not None:
                alarms.append(Alarm(test.kind, audit.source, audit.time, reason, self._audited))
                self._tests.remove(test)
        return alarms


class DisagreementTest:
    """The test of disagreement with the last exit against the candidate's bound."""

    kind: AlarmKind = "disagreement"

    def __init__(self) -> None:
        """Start without frames."""
        self._means = MeansTest(1)

    def add(self, audit: Audit, expected: Expected) -> str | None:
        """Test a further frame; return the reason of an alarm, or None."""
        if not self._means.exceed([audit.differs], [expected.disagreement]):
            return None
        return f"{self._means.recent(0)} differ from the last exit; the bound is {expected.disagreement:.2%}"


class ExitSharesTest:
    """The test of exit shares against those of the threshold-fitting split, in both directions."""

    kind: AlarmKind = "exit_shares"

    def __init__(self) -> None:
        """Start without frames."""
        self._means: MeansTest | None = None

    def add(self, audit: Audit, expected: Expected) -> str | None:
        """Test a further frame; return the reason of an alarm, or None."""
        if expected.exit_shares is None:
            return None
        shares = expected.exit_shares
        self._means = self._means or MeansTest(2 * len(shares))
        if not self._means.exceed(exit_values(audit.result.exit_index, len(shares)), exit_bounds(shares)):
            return None
        exit_index = self._means.largest % len(shares)
        return (
            f"{self._means.recent(exit_index)} exit at {exit_index}; expected {shares[exit_index]:.0%}, give or take "
            f"{EXIT_SHARE_TOLERANCE:.0%}"
        )


def exit_values(exit_index: ArrayLike, exits: int) -> NDArray[np.bool_]:
    """Return True for the exit that answered, then True for each that did not, shape (..., 2 * exits)."""
    taken = np.arange(exits) == np.asarray(exit_index)[..., None]
    return np.concatenate([taken, ~taken], axis=-1)


def exit_bounds(shares: Sequence[float]) -> NDArray[np.float64]:
    """Return the bounds on the means of `exit_values` where exits are expected to answer these shares of the frames."""
    expected = np.array(shares)
    return np.minimum(np.concatenate([expected, 1 - expected]) + EXIT_SHARE_TOLERANCE, 1.0)


class LatencyTest:
    """The test of latency: at most 5 % of frames may miss the deadline."""

    kind: AlarmKind = "latency"

    def __init__(self, deadline_ms: float) -> None:
        """Start without frames."""
        self._deadline_ms, self._means = deadline_ms, MeansTest(1)

    def add(self, audit: Audit, expected: Expected) -> str | None:
        """Test a further frame; return the reason of an alarm, or None."""
        if not self._means.exceed([audit.result.latency_ms > self._deadline_ms], [LATE_SHARE]):
            return None
        return f"{self._means.recent(0)} took longer than the deadline of {self._deadline_ms:g} ms"


class MeansTest:
    """Several means, tested together."""

    def __init__(self, count: int) -> None:
        """Start without values."""
        self._process = BettingProcess((count,))
        self._recent: deque[NDArray[np.bool_]] = deque(maxlen=RECENT)

    @property
    def largest(self) -> int:
        """Index of the mean with the most evidence that it exceeds its bound."""
        return int(self._process.capital.argmax())

    def exceed(self, values: Sequence[bool] | NDArray[np.bool_], bounds: Sequence[float] | NDArray[np.float64]) -> bool:
        """Add a value of each mean; return True for an alarm: one of the means exceeds its bound."""
        self._process.add(values, bounds)
        self._recent.append(np.asarray(values))
        return bool(self._process.capital.mean() >= 1 / FALSE_ALARM_RATE)

    def recent(self, index: int) -> str:
        """Return the share of recent frames for people."""
        return (
            f"{np.mean([values[index] for values in self._recent]):.1%} of the last {len(self._recent)} audited frames"
        )
