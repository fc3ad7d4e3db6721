"""`edge bench` times what it says it times, counts each frame once, and lets go of everything."""

import numpy as np
import pytest

from edge.bundle.bundle import Bundle
from edge.decision import Prediction, decide
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import EngineError
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.inference.host import HostSlot
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.measure.bench import WARM_UP_FRAMES, EarlyExit, measure, measure_precision


class NotedSlot(HostSlot):
    """Keeps what it answered; may break at a frame, and must not be used after it was closed."""

    def __init__(self, classifier: Classifier, breaks_at: int | None) -> None:
        super().__init__(classifier)
        self.said: list[Prediction] = []
        self.breaks_at, self.is_closed = breaks_at, False

    def infer(self) -> Prediction:
        assert not self.is_closed
        if len(self.said) == self.breaks_at:
            raise EngineError("the device is gone")
        self.said.append(super().infer())
        return self.said[-1]

    def close(self) -> None:
        self.is_closed = True


class NotedSlots(OnnxRuntime):
    """Keeps its slots in the order they were made; the last to be made may break."""

    def __init__(self, count: int | None = None, breaks_at: int | None = None) -> None:
        super().__init__()
        self.slots: list[NotedSlot] = []
        self._last, self._breaks_at = count, breaks_at

    def make_slot(self, classifier: Classifier) -> NotedSlot:
        is_last = len(self.slots) + 1 == self._last
        self.slots.append(NotedSlot(classifier, self._breaks_at if is_last else None))
        return self.slots[-1]


@pytest.fixture
def frames(digits_bundle: Bundle) -> list[Frame]:
    """Return more than warm up."""
    return list(digits_bundle.reference().frames[: WARM_UP_FRAMES + 5])


@pytest.mark.parametrize("breaks_at", [None, 3, WARM_UP_FRAMES + 3])
def test_every_candidate_is_closed_even_where_one_breaks_midway(
    breaks_at: int | None, digits_bundle: Bundle, frames: list[Frame]
) -> None:
    count = 2 + len(digits_bundle.manifest.exits)
    backend = NotedSlots(count, breaks_at)
    if breaks_at is None:
        measure_precision(digits_bundle, "fp32", backend, frames, None)
    else:
        with pytest.raises(EngineError, match="the device is gone"):
            measure_precision(digits_bundle, "fp32", backend, frames, None)
    assert [slot.is_closed for slot in backend.slots] == [True] * count


def test_shares_and_accuracy_count_each_frame_once(digits_bundle: Bundle, frames: list[Frame]) -> None:
    classifier = load_classifier(digits_bundle, "fp32", OnnxRuntime())
    scores = record(classifier, frames).scores
    limits = np.median(scores.confidence[:-1], axis=1)
    taken = decide(scores, limits)
    labels = taken.label.copy()
    labels[:5] += 1
    candidate = EarlyExit(classifier, limits.tolist())
    found = measure({"any": candidate}, frames, labels.tolist())["any"]
    assert candidate.exits.tolist() == np.bincount(taken.exit_index, minlength=3).tolist()
    assert found.exit_shares == pytest.approx(candidate.exits / len(frames))
    assert found.accuracy == pytest.approx(1 - 5 / len(frames))
    assert found.latency_ms.frames == len(frames)


def test_a_forced_exit_answers_every_frame_and_the_whole_network_as_the_last_one(
    digits_bundle: Bundle, frames: list[Frame]
) -> None:
    backend = NotedSlots()
    found = measure_precision(digits_bundle, "fp32", backend, frames, None)
    whole, _, *forced = backend.slots
    for k, slot in enumerate(forced):
        assert {one.exit_index for one in slot.said} == {k}
        assert found[f"exit {k} forced"].exit_shares == tuple(float(j == k) for j in range(len(forced)))
    temperatures = digits_bundle.precision("fp32").temperatures
    assert temperatures[0] != temperatures[-1]  # else all exits' probabilities would be scaled alike
    assert [one.label for one in whole.said] == [one.label for one in forced[-1].said]
    assert [one.probability for one in whole.said] == pytest.approx([one.probability for one in forced[-1].said])
