"""Measurements of a bundle: every frame counts once, forced exits answer every frame, and all slots are closed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.bundle.bundle import Bundle
from edge.bundle.chain import ChainSpec
from edge.decision import NEVER, Prediction, decide
from edge.engines.base import DeviceKind
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import BundleError, EngineError
from edge.frames.base import Frame, frame_from_array
from edge.inference.host import HostSlot
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.measure.bench import (
    TURN_FRAMES,
    WARM_UP_FRAMES,
    Series,
    Turns,
    bench,
    bench_once,
    measure,
    summarise,
    thresholds_for_exit,
)
from edge.measure.interleave import LEADING_ITEMS, interleave
from edge.measure.latency import latency_from_ms
from edge.measure.launches import LAUNCHES


class RecordingSlot(HostSlot):
    """Records its thresholds and predictions; fails at one frame if asked to, and must not be used once closed."""

    def __init__(self, chain: ChainSpec, engines: Sequence[Any], fails_at: int | None) -> None:
        super().__init__(chain, engines)
        self.exits = chain.exits
        self.predictions: list[Prediction] = []
        self.thresholds: set[tuple[float, ...]] = set()
        self.fails_at, self.is_closed = fails_at, False

    def start(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        self.thresholds.add(tuple(thresholds.tolist()))
        super().start(frame, thresholds)

    def result(self) -> Prediction:
        assert not self.is_closed
        if len(self.predictions) == self.fails_at:
            raise EngineError("the device is gone")
        self.predictions.append(super().result())
        return self.predictions[-1]

    def close(self) -> None:
        self.is_closed = True


class Slots:
    """All slots made during a test, in order; the `failing`th fails at frame `fails_at`."""

    def __init__(self) -> None:
        self.made: list[RecordingSlot] = []
        self.failing, self.fails_at = 0, 0

    def new_slot(self, device: DeviceKind, chain: ChainSpec, engines: Sequence[Any]) -> RecordingSlot:
        assert device == "cpu"
        is_failing = len(self.made) + 1 == self.failing
        self.made.append(RecordingSlot(chain, engines, self.fails_at if is_failing else None))
        return self.made[-1]

    def of_whole_network(self) -> RecordingSlot:
        [slot] = [slot for slot in self.made if slot.exits == 1]
        return slot

    def with_thresholds(self, thresholds: Sequence[float]) -> RecordingSlot:
        expected = {tuple(np.array(thresholds, dtype=np.float32).tolist())}
        [slot] = [slot for slot in self.made if slot.exits > 1 and slot.thresholds == expected]
        return slot


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> Slots:
    slots = Slots()
    monkeypatch.setattr("edge.inference.classifier.new_slot", slots.new_slot)
    return slots


@pytest.fixture
def frames(digits_bundle: Bundle) -> list[Frame]:
    """Return more frames than the warm-up uses."""
    return [frame_from_array(pixels, "image") for pixels in digits_bundle.reference().frames[: WARM_UP_FRAMES + 5]]


@pytest.mark.parametrize("fails_at", [None, 3, WARM_UP_FRAMES + 3])
def test_every_slot_is_closed_even_where_one_fails_midway(
    fails_at: int | None, digits_bundle: Bundle, frames: list[Frame], slots: Slots
) -> None:
    count = 2 + len(digits_bundle.manifest.exits)
    if fails_at is None:
        bench_once(digits_bundle, "fp32", OnnxRuntime(), frames)
    else:
        slots.failing, slots.fails_at = count, fails_at
        with pytest.raises(EngineError, match="the device is gone"):
            bench_once(digits_bundle, "fp32", OnnxRuntime(), frames)
    assert [slot.is_closed for slot in slots.made] == [True] * count


def test_shares_and_accuracy_count_each_frame_once(digits_bundle: Bundle, frames: list[Frame]) -> None:
    with load_classifier(digits_bundle, "fp32", OnnxRuntime()) as classifier:
        scores = record(classifier, frames).scores
        thresholds = np.median(scores.confidence[:-1], axis=1)
        decisions = decide(scores, thresholds)
        labels = decisions.label.copy()
        labels[:5] += 1
        measured = measure([classifier.with_thresholds(thresholds)], frames, labels.tolist())
    [measurement] = measured.classifiers
    assert measured.control_ms.frames == len(frames)
    assert measurement.exit_shares == pytest.approx(np.bincount(decisions.exit_index, minlength=3) / len(frames))
    assert measurement.accuracy == pytest.approx(1 - 5 / len(frames))
    assert measurement.latency_ms.frames == len(frames)


def test_another_bundle_takes_turns_and_frames_without_labels_have_no_accuracy(
    digits_bundle: Bundle, frames: list[Frame]
) -> None:
    result = bench(digits_bundle, "fp32", OnnxRuntime(), frames, None, beside={"itself": digits_bundle})
    assert list(result.by_workload()) == ["whole", "early_exit", "exit_0", "exit_1", "exit_2", "beside itself"]
    assert result.beside["itself"].exit_shares == result.early_exit.exit_shares
    for measurement in result.by_workload().values():
        assert measurement.accuracy is None
        assert measurement.latency_ms.frames == LAUNCHES * len(frames)


def test_a_bundle_with_other_labels_is_not_measured_beside(digits_bundle: Bundle, frames: list[Frame]) -> None:
    other = replace(digits_bundle, manifest=replace(digits_bundle.manifest, labels=("cat", "dog")))
    with pytest.raises(BundleError, match="has other labels or another kind of input"):
        bench(digits_bundle, "fp32", OnnxRuntime(), frames, None, beside={"other": other})


def test_launches_are_pooled_and_their_medians_give_the_spread() -> None:
    def turns(ms: float, labels: list[int]) -> Turns:
        return Turns([Series(np.full(3, ms), np.array(labels), np.array([0, 1, 1]))], np.full(3, ms / 2))

    launches = [turns(ms, [4, 5, int(ms == 3)]) for ms in (1.0, 2.0, 2.0, 2.0, 3.0)]
    measured = summarise(launches, [3], [4, 5, 0])
    [measurement] = measured.classifiers
    assert measurement.latency_ms.p50 == 2.0
    assert measurement.latency_ms.spread == pytest.approx((3 - 1) / 2 / 2)
    assert measurement.accuracy == pytest.approx(14 / 15)
    assert measurement.exit_shares == pytest.approx((1 / 3, 2 / 3, 0))
    assert measured.control_ms.p50 == 1.0


def test_a_forced_exit_answers_every_frame_and_the_whole_network_equals_the_last_exit(
    digits_bundle: Bundle, frames: list[Frame], slots: Slots
) -> None:
    exits = len(digits_bundle.manifest.exits)
    turns = bench_once(digits_bundle, "fp32", OnnxRuntime(), frames)
    forced = [slots.with_thresholds(thresholds_for_exit(k, exits)) for k in range(exits)]
    for k, slot in enumerate(forced):
        assert {prediction.exit_index for prediction in slot.predictions} == {k}
        assert set(turns.series[2 + k].exit_index) == {k}
    assert set(turns.series[0].exit_index) == {0}
    temperatures = digits_bundle.precision("fp32").temperatures
    assert temperatures[0] != temperatures[-1]  # else the probabilities of all exits would be scaled alike
    whole, last = slots.of_whole_network().predictions, forced[-1].predictions
    assert [prediction.label for prediction in whole] == [prediction.label for prediction in last]
    assert [p.probability for p in whole] == pytest.approx([p.probability for p in last])


def test_early_exits_are_measured_with_the_fitted_thresholds(
    digits_bundle: Bundle, frames: list[Frame], slots: Slots
) -> None:
    turns = bench_once(digits_bundle, "fp32", OnnxRuntime(), frames)
    slot = slots.with_thresholds(digits_bundle.precision("fp32").thresholds.values)
    turns_taken = slot.predictions[WARM_UP_FRAMES:]
    turn = LEADING_ITEMS + TURN_FRAMES
    measured = [each for index, each in enumerate(turns_taken) if index % turn >= LEADING_ITEMS]
    assert turns.series[1].exit_index.tolist() == [prediction.exit_index for prediction in measured]
    assert turns.series[1].label_index.tolist() == [prediction.label_index for prediction in measured]


@pytest.mark.parametrize(("exit_index", "thresholds"), [(0, [0.0, 0.0]), (1, [NEVER, 0.0]), (2, [NEVER, NEVER])])
def test_thresholds_that_force_an_exit_are_never_before_it(exit_index: int, thresholds: list[float]) -> None:
    assert thresholds_for_exit(exit_index, 3) == thresholds


def test_interleaved_calls_run_once_per_item_in_a_random_order_that_the_seed_repeats() -> None:
    def run(seed: int) -> tuple[list[tuple[str, int]], Any]:
        ran: list[tuple[str, int]] = []
        calls = [lambda item, name=name: ran.append((name, item)) or f"{name}{item}" for name in "abc"]
        return ran, interleave(calls, range(60), seed)

    ran, timed = run(seed=0)
    orders = Counter("".join(name for name, item in ran if item == wanted) for wanted in range(60))
    assert set(orders) == set(map("".join, permutations("abc")))
    assert [item for _, item in ran] == [item for item in range(60) for _ in "abc"]
    assert [part.results for part in timed] == [[f"{name}{item}" for item in range(60)] for name in "abc"]
    assert all(len(part.times_ms) == 60 and (part.times_ms >= 0).all() for part in timed)
    assert run(seed=0)[0] == ran != run(seed=1)[0]


def test_a_call_takes_the_items_of_a_block_one_after_the_other_and_warms_up_on_the_first() -> None:
    ran: list[tuple[str, int]] = []
    calls = [lambda item, name=name: ran.append((name, item)) or f"{name}{item}" for name in "ab"]
    timed = interleave(calls, range(12), block=5, leading=3)
    assert [part.results for part in timed] == [[f"{name}{item}" for item in range(12)] for name in "ab"]
    turns = [[*range(0, 3), *range(0, 5)], [*range(5, 8), *range(5, 10)], [10, 11, 10, 11]]
    for name in "ab":
        assert [item for ran_by, item in ran if ran_by == name] == [item for turn in turns for item in turn]
    assert sum(first != then for (first, _), (then, _) in pairwise(ran)) <= 2 * len(turns) - 1


def test_the_spread_of_a_latency_is_half_the_range_of_medians_of_five_parts() -> None:
    latency = latency_from_ms([*[1.0] * 20, *[2.0] * 60, *[4.0] * 20])
    assert (latency.p50, latency.p99, latency.mean, latency.frames) == (2.0, 4.0, pytest.approx(2.2), 100)
    assert latency.spread == pytest.approx((4 - 1) / 2 / 2)
    assert latency.iqr == 0.0
    assert latency_from_ms([1.0, 2.0, 3.0, 4.0, 5.0]).iqr == 2.0
