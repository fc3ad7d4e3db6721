"""The peers of early exits run the same network, take the same decisions, and have a rival chosen beforehand."""

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.peers.choice import EQUAL_ACCURACY, Run, choose, is_ahead
from benchmarks.peers.loops import session_loop, torch_loop, torch_stages
from edge.bundle.bundle import Bundle
from edge.frames.base import frame_from_array
from edge.inference.load import load

if TYPE_CHECKING:
    from edge.training.checkpoint import Checkpoint

IMAGES = 10_000


def run(name: str, ms: float, wrong: int, *, first_wrong: int = 0) -> Run:
    """Return a run that is wrong on consecutive images."""
    correct = np.ones(IMAGES, dtype=bool)
    correct[first_wrong : first_wrong + wrong] = False
    return Run(name, np.full(IMAGES, ms), correct)


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


def test_the_fastest_of_those_that_surely_keep_the_accuracy_is_chosen() -> None:
    peer = run("whole", 1.0, wrong=1000)
    slow = run("slow", 0.9, wrong=1000)
    fast = run("fast", 0.5, wrong=1010)
    inaccurate = run("inaccurate", 0.1, wrong=1100)
    assert choose(peer, [slow, inaccurate, fast]) == 2


def test_equal_means_on_different_images_are_no_sure_equality() -> None:
    peer = run("whole", 1.0, wrong=1000)
    alike, other = run("alike", 0.9, wrong=1000), run("other", 0.5, wrong=1000, first_wrong=5000)
    assert other.accuracy == peer.accuracy
    assert choose(peer, [other, alike]) == 1


def test_the_most_accurate_is_chosen_where_none_is_accurate_enough() -> None:
    peer = run("whole", 1.0, wrong=100)
    assert choose(peer, [run("a", 0.1, wrong=900), run("b", 0.9, wrong=800)]) == 1


def test_early_exits_are_ahead_only_if_they_are_faster_and_as_accurate() -> None:
    peer, limit = run("whole", 1.0, wrong=0), round(EQUAL_ACCURACY * IMAGES)
    assert is_ahead(run("ours", 0.9, wrong=limit), peer)
    assert not is_ahead(run("ours", 0.9, wrong=limit + 1), peer)
    assert not is_ahead(run("ours", 1.1, wrong=0), peer)
