"""Messages for people."""

from edge.live.outputs.terminal import Terminal, describe
from tests.support.observations import observation
from tests.support.outputs import alarm, audit, candidate_change, change, event, opened


def test_events_are_lines() -> None:
    lines: list[str] = []
    with opened(Terminal(lines.append)) as terminal:
        terminal.write([change("connected"), event(), observation(0)])
        terminal.write([event("7", "left", duration_s=12.34), observation(0, source="cam")])
    time = "2026-11-27T18:04:05.000Z"
    assert lines == [f"{time} test://: entered 7", f"{time} test://: left 7 after 12.3 s"]


def test_every_message_has_words() -> None:
    assert describe(observation(1, "3", probability=0.456, exit_index=1)) == "3 46% at exit 1"
    assert describe(change("connected")) == "connected"
    assert describe(change("lost", "no frame for 5 s", source="cam", reconnects=2)) == (
        "lost: no frame for 5 s (reconnects: 2)"
    )
    assert describe(audit(differs=True, frame_index=12)) == "frame 12: 7, last exit 3"
    assert describe(alarm("latency", "9.0% are late")) == "alarm: latency: 9.0% are late"
    assert describe(candidate_change(1)) == "candidate 2 of 4: 6 of 40 frames took longer than 33 ms"
