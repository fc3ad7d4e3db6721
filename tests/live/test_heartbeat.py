"""The heartbeat line."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from edge.live.outputs.heartbeat import Heartbeat, percentile_95
from tests.support.commands import wait_until
from tests.support.observations import observation
from tests.support.outputs import alarm, audit, change, event, opened


def test_a_line_has_the_counts_since_the_line_before() -> None:
    heartbeat = Heartbeat()
    heartbeat.write([observation(0, exit_index=index % 4 // 3, age_ms=index, dropped=index) for index in range(1, 101)])
    heartbeat.write([change("connected", reconnects=2), event()])
    first = "test://: 10.0 frames/s, exit 0 75%, exit 1 25%, 100 dropped, frame age p95 95.0 ms, 2 reconnects"
    assert heartbeat.lines(10.0) == [first]
    heartbeat.write([observation(0, age_ms=3, dropped=104), change("connected", reconnects=3)])
    second = "test://: 0.1 frames/s, exit 0 100%, 4 dropped, frame age p95 3.0 ms, 1 reconnects"
    assert heartbeat.lines(10.0) == [second]
    assert heartbeat.lines(10.0) == ["test://: 0.0 frames/s, 0 dropped, 0 reconnects"]


def test_audits_are_those_since_the_line_before_and_alarms_stay() -> None:
    heartbeat = Heartbeat()
    heartbeat.write([audit(), audit(differs=True, left_out=1), alarm("latency"), alarm("disagreement")])
    raised = "alarm: disagreement, alarm: latency"
    assert heartbeat.lines(1.0)[0].endswith(f"0 reconnects, 2 audited, 1 differ, 1 left out, {raised}")
    heartbeat.write([audit(left_out=1)])
    assert heartbeat.lines(1.0)[0].endswith(f"0 reconnects, 1 audited, 0 differ, {raised}")
    assert heartbeat.lines(1.0)[0].endswith(f"0 reconnects, {raised}")


def test_drops_of_outputs_are_named() -> None:
    heartbeat = Heartbeat()
    queues: Any = [
        SimpleNamespace(output=SimpleNamespace(name=name), dropped=drops) for name, drops in (("a", 0), ("b", 2))
    ]
    heartbeat.watch(queues)
    heartbeat.write([observation(0)])
    assert heartbeat.lines(1.0)[0].endswith("; b dropped 2 in all")


def test_it_beats_although_no_message_comes_and_stops_when_closed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), opened(Heartbeat(0.01), [observation(0)]) as heartbeat:
        wait_until(lambda: len(caplog.messages) >= 3, "three beats")
    assert caplog.messages[2].startswith("test://: 0.0 frames/s")
    heartbeat._thread.join(10)
    assert not heartbeat._thread.is_alive()


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (20, 19), (100, 95), (101, 96)])
def test_percentile(count: int, expected: int) -> None:
    assert percentile_95(range(count, 0, -1)) == expected
