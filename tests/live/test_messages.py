"""Messages as the JSON objects that outputs write."""

from edge.live.messages import record
from tests.support.observations import observation
from tests.support.outputs import alarm, audit, bundle_change, candidate_change

COMMON = {"time": "2026-11-27T18:04:05.000Z", "source": "test://"}


def test_audits_alarms_and_candidates_are_objects_with_a_key_of_their_own() -> None:
    compared = {"audited_frame": 12, "label": "7", "last_label": "3"}
    assert record(audit(differs=True, frame_index=12)) == COMMON | compared | {"audit": "differs"}
    assert record(audit(frame_index=12)) == COMMON | compared | {"audit": "agrees", "last_label": "7"}
    assert record(alarm()) == COMMON | {"alarm": "disagreement", "reason": "9.0% differ", "audited": 500}
    chosen = {"candidate_index": 1, "candidates": 4, "reason": "6 of 40 frames took longer than 33 ms"}
    assert record(candidate_change()) == COMMON | chosen


def test_a_name_of_a_file_that_is_not_utf8_is_escaped() -> None:
    assert record(observation(0, position="\udcff/ä.png"))["file"] == "\\udcff/ä.png"


def test_changes_of_a_followed_bundle_have_a_key_of_their_own_and_results_name_theirs() -> None:
    change = {"follow": "swapped", "bundle": "9f86d081884c", "reason": "replaces 3bd92ffd919a", "faults": 0}
    assert record(bundle_change()) == COMMON | change
    assert record(observation(0, bundle="9f86d081884c"))["bundle"] == "9f86d081884c"
    assert "bundle" not in record(observation(0))
