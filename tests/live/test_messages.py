"""Messages as the JSON objects that outputs write."""

from edge.live.messages import record
from tests.support.outputs import alarm, audit, candidate_change

COMMON = {"time": "2026-11-27T18:04:05.000Z", "source": "test://"}


def test_audits_alarms_and_candidates_are_objects_with_a_key_of_their_own() -> None:
    compared = {"audited_frame": 12, "label": "7", "last_label": "3"}
    assert record(audit(differs=True, frame_index=12)) == COMMON | compared | {"audit": "differs"}
    assert record(audit(frame_index=12)) == COMMON | compared | {"audit": "agrees", "last_label": "7"}
    assert record(alarm()) == COMMON | {"alarm": "disagreement", "reason": "9.0% differ", "audited": 500}
    chosen = {"candidate_index": 1, "candidates": 4, "reason": "6 of 40 frames took longer than 33 ms"}
    assert record(candidate_change()) == COMMON | chosen
