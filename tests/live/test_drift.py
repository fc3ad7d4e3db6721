"""Tests of audited frames: each alarm names its evidence, comes once, and only where a bound is exceeded."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edge.bundle.bundle import Bundle
from edge.decision import decide
from edge.live.drift import Expected, SourceTests, expectations
from edge.live.messages import Alarm
from tests.support.candidates import certified
from tests.support.outputs import audit

COSTLY, CHEAP = (2.0, 2.0), (0.5, 0.5)
EXPECTED = {COSTLY: Expected(0.01, (0.0, 0.0, 1.0)), CHEAP: Expected(0.3, (0.5, 0.3, 0.2))}
DEADLINE_MS = 33.0


def exits(shares: Sequence[float], count: int) -> list[int]:
    """Return exit indices in random order, with these shares."""
    return np.random.default_rng(0).choice(len(shares), count, p=shares).tolist()


def alarms_of(frames: Sequence[dict[str, Any]], tests: SourceTests | None = None) -> list[Alarm]:
    tests = tests or SourceTests(EXPECTED, DEADLINE_MS)
    return [alarm for frame in frames for alarm in tests.add(audit(**frame))]


def as_expected(count: int) -> list[dict[str, Any]]:
    """Return frames that keep to all bounds of the cheap candidate."""
    indices = enumerate(exits(EXPECTED[CHEAP].exit_shares or (), count))
    common = {"thresholds": CHEAP}
    return [
        common | {"exit_index": k, "differs": i % 5 == 0, "latency_ms": 5.0 + 35 * (i % 30 == 0)} for i, k in indices
    ]


def test_frames_as_expected_raise_no_alarm() -> None:
    assert alarms_of(as_expected(2000)) == []


@pytest.mark.parametrize(
    ("kind", "reason", "changes"),
    [
        ("disagreement", r"100.0% of the last \d+ audited frames differ from the last exit; the bound is 30.00%",
         {"differs": True}),
        ("exit_shares", r"100.0% of the last \d+ audited frames exit at 2; expected 20%, give or take 10%",
         {"exit_index": 2}),
        ("latency", r"100.0% of the last \d+ audited frames took longer than the deadline of 33 ms",
         {"latency_ms": 34.0}),
    ],
)  # fmt: skip
def test_an_alarm_has_a_reason_and_comes_once(kind: str, reason: str, changes: dict[str, Any]) -> None:
    frames = [frame | changes for frame in as_expected(500)]
    [alarm] = alarms_of(frames)
    assert alarm.kind == kind
    assert 1 < alarm.audited < 100
    assert re.fullmatch(reason, alarm.reason)


def test_the_bound_is_that_of_the_candidate_that_classified_the_frame() -> None:
    for thresholds, kinds in ((COSTLY, {"disagreement"}), (CHEAP, {"exit_shares"})):
        frames = [{"thresholds": thresholds, "exit_index": 2, "differs": i % 5 == 0} for i in range(400)]
        assert {alarm.kind for alarm in alarms_of(frames)} == kinds


def test_frames_with_other_thresholds_are_not_tested() -> None:
    assert alarms_of([{"thresholds": (0.1, 0.1), "differs": True, "latency_ms": 99.0}] * 500) == []


def test_without_a_deadline_latency_is_not_tested() -> None:
    slow = [frame | {"latency_ms": 999.0} for frame in as_expected(500)]
    assert alarms_of(slow, SourceTests(EXPECTED, None)) == []


def with_candidates(bundle: Bundle, bounds: Sequence[float | None], split: str) -> Bundle:
    """Return a bundle, in memory only, whose fp32 has a candidate for each bound, fitted to a split."""
    precisions = {**bundle.manifest.precisions, "fp32": certified(bundle, bounds, split)}
    return Bundle(bundle.path, dataclasses.replace(bundle.manifest, precisions=precisions))


def test_expected_exit_shares_are_those_of_the_threshold_fitting_split(digits_bundle: Bundle) -> None:
    bundle = with_candidates(digits_bundle, (0.01, 0.02), digits_bundle.manifest.splits["thresholds"].fingerprint)
    expected, scores = expectations(bundle, "fp32"), bundle.scores("fp32").scores
    assert [each.disagreement for each in expected.values()] == [0.01, 0.02]
    for thresholds, each in expected.items():
        taken = decide(scores, np.array(thresholds, dtype=np.float32)).exit_index
        assert each.exit_shares == pytest.approx([(taken == k).mean() for k in range(3)])


def test_thresholds_refitted_on_a_device_have_a_bound_but_no_exit_shares(digits_bundle: Bundle) -> None:
    [expected] = expectations(with_candidates(digits_bundle, (0.01,), "a device"), "fp32").values()
    assert (expected.disagreement, expected.exit_shares) == (0.01, None)


def test_thresholds_without_a_guarantee_have_no_expectations(digits_bundle: Bundle) -> None:
    assert expectations(digits_bundle, "fp32") == {}
