"""The peers of early exits run the same network, and take the same decisions."""

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.peer_loops import session_loop, torch_loop, torch_stages
from benchmarks.peers import EQUAL_ACCURACY, Row, is_ahead
from edge.bundle.bundle import Bundle
from edge.frames.base import frame_from_array
from edge.inference.load import load

if TYPE_CHECKING:
    from edge.training.checkpoint import Checkpoint


def test_loops_of_users_give_the_labels_of_the_classifier(
    digits_bundle: Bundle, digits_checkpoint: "Checkpoint"
) -> None:
    frames = [frame_from_array(pixels, "image") for pixels in digits_bundle.reference().frames[:100]]
    thresholds = digits_bundle.precision("fp32").thresholds.values
    spec = digits_bundle.manifest.input
    with load(digits_bundle.path, precision="fp32") as classifier:
        expected = [classifier.predict(frame).label_index for frame in frames]
    loop = torch_loop(torch_stages(digits_checkpoint.network()), thresholds, spec)
    assert [loop(frame) for frame in frames] == expected
    sessions = session_loop(digits_bundle, "fp32")
    assert [sessions(frame) for frame in frames] == expected
    assert len(np.unique(expected)) > 5


def test_early_exits_are_ahead_only_if_one_row_is_faster_and_as_accurate() -> None:
    peer = Row("whole", is_ours=False, ms_mean=1.0, accuracy=0.9)
    fast_but_wrong = Row("early exits a", is_ours=True, ms_mean=0.5, accuracy=0.9 - 2 * EQUAL_ACCURACY)
    right_but_slow = Row("early exits b", is_ours=True, ms_mean=1.5, accuracy=0.95)
    assert not is_ahead(peer, [peer, fast_but_wrong, right_but_slow])
    assert is_ahead(peer, [peer, Row("early exits c", is_ours=True, ms_mean=0.9, accuracy=0.897)])
