"""Messages for people."""

from edge.live.outputs.terminal import Terminal
from tests.support.observations import observation
from tests.support.outputs import change, event, opened


def test_events_and_changes_are_lines_and_results_a_status() -> None:
    lines: list[str] = []
    statuses: list[str] = []
    with opened(Terminal(lines.append, statuses.append)) as terminal:
        terminal.write([change("connected"), event()])
        terminal.write([observation(0), observation(1, "3", probability=0.456, exit_index=1)])
        terminal.write([event("7", "left", duration_s=12.34), observation(0, source="cam")])
        terminal.write([change("lost", "no frame for 5 s", source="cam", reconnects=2)])
    time = "2026-11-27T18:04:05.000Z"
    assert lines == [
        f"{time} test://: connected",
        f"{time} test://: entered 7",
        f"{time} test://: left 7 after 12.3 s",
        f"{time} cam: lost: no frame for 5 s (reconnects: 2)",
    ]
    assert statuses[:2] == ["3 46% at exit 1", "test://: 3 46% at exit 1; cam: 7 90% at exit 0"]
