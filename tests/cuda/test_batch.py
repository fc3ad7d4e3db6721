"""Batches on the stand-in for a GPU: those who go on are put together by our own kernels, run from their source."""

import ctypes
import gc
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import edge.cuda
from edge.decision import NEVER, Decisions
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import EngineError, SourceError
from edge.inference.classifier import Classifier
from edge.inference.host import HostBatch
from tests.support.cuda_networks import Network, Networks, frames
from tests.support.cuda_stand_in import CoreError, DriverError, World, host_launch

if TYPE_CHECKING:
    from edge.cuda.batch import CudaBatch


def on_gpu(one: Network, most: int = 7) -> "CudaBatch":
    from edge.cuda.batch import CudaBatch

    return CudaBatch(classifier_of(one, one.engines), edge.cuda.get_runtime(), most)


def on_host(one: Network, tmp_path: Path, name: str) -> HostBatch:
    engines = load_engines(tmp_path / name, one.precision.segments, OnnxRuntime(), batch=None)
    return HostBatch(classifier_of(one, engines))


def classifier_of(one: Network, engines: Sequence[Any]) -> Classifier:
    return Classifier(input_spec=one.spec, precision=one.precision, engines=engines)


def bits(decisions: Decisions) -> list[list[Any]]:
    return [decisions.exit_index.tolist(), decisions.confidence.view(np.int32).tolist(), decisions.label.tolist()]


def middling(host: HostBatch, images: np.ndarray, exits: int) -> list[float]:
    """Return thresholds that half of the images reach at each exit."""
    values = []
    for k in range(exits - 1):
        host._classifier.set_thresholds([NEVER] * k + [0.0] * (exits - 1 - k))
        values.append(float(np.median(host.classify(images).confidence)))
    return values


@pytest.mark.parametrize("most", [7, 40])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["two exits", "tiny cnn", "five exits", "two tensors"])
def test_a_batch_on_the_gpu_is_decided_as_on_the_host(
    name: str, precision: str, most: int, network: Networks, tmp_path: Path
) -> None:
    one = network(name, precision=precision)
    gpu, host, images = on_gpu(one, most), on_host(one, tmp_path, name), np.stack(frames(40))
    for thresholds in (middling(host, images, one.exits), [0.0] * (one.exits - 1), [NEVER] * (one.exits - 1)):
        for batch in (gpu, host):
            batch._classifier.set_thresholds(thresholds)
        expected = host.classify(images)
        assert bits(gpu.classify(images)) == bits(expected)
        if thresholds[0] not in (0.0, NEVER):
            assert {0, one.exits - 1} <= set(expected.exit_index.tolist())


def test_the_host_waits_once_for_each_segment_that_runs_and_no_other_runs(network: Networks, world: World) -> None:
    one = network("tiny cnn")
    gpu, images = on_gpu(one), np.stack(frames(14))
    for segments, thresholds in ((1, [0.0, 0.0]), (2, [NEVER, 0.0]), (3, [NEVER, NEVER])):
        gpu._classifier.set_thresholds(thresholds)
        world.calls.clear()
        world.ran.clear()
        assert set(gpu.classify(images).exit_index.tolist()) == {segments - 1}
        assert world.calls["synchronize"] == 2 * segments  # seven images fit in
        assert [name for name in world.ran if name.startswith("segment")] == 2 * [
            f"segment {k}" for k in range(segments)
        ]
        assert world.calls["mem_alloc"] == 0


def test_who_is_not_a_number_goes_on_and_at_the_threshold_one_leaves(network: Networks, world: World) -> None:
    one = network("tiny cnn")
    gpu, images = on_gpu(one), np.stack(frames(5))
    gpu._classifier.set_thresholds([0.0, NEVER])
    exact = gpu.classify(images).confidence
    for at, exits in ((exact[2], exact >= exact[2]), (np.nextafter(exact[2], np.float32(2)), exact > exact[2])):
        gpu._classifier.set_thresholds([at, NEVER])
        assert ((gpu.classify(images).exit_index == 0) == exits).all()
    engine = one.engines[0]
    inner = engine.session

    def spoilt(names: Any, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = dict(zip([tensor.name for tensor in inner.get_outputs()], inner.run(names, given), strict=True))
        found["confidence_0"][1] = np.nan
        found["exit_0"] = found["confidence_0"] >= given["threshold_0"]
        return list(found.values())

    engine.session = SimpleNamespace(get_inputs=inner.get_inputs, get_outputs=inner.get_outputs, run=spoilt)
    gpu._classifier.set_thresholds([0.0, NEVER])
    assert gpu.classify(images).exit_index.tolist() == [0, 2, 0, 0, 0]


def test_where_memory_is_shared_a_batch_is_not_copied(network: Networks, world: World, tmp_path: Path) -> None:
    world.is_integrated = True
    one = network("tiny cnn")
    gpu, host, images = on_gpu(one), on_host(one, tmp_path, "tiny cnn"), np.stack(frames(40))
    thresholds = middling(host, images, one.exits)
    before = world.calls["memcpy_htod_async"]
    for batch in (host, gpu):
        batch._classifier.set_thresholds(thresholds)
    expected = bits(host.classify(images))
    for _ in range(2):  # the kernels wrote into what the host says of the images
        assert bits(gpu.classify(images)) == expected
    assert world.calls["memcpy_htod_async"] == before


def test_no_images_ask_nothing_of_the_gpu(network: Networks, world: World) -> None:
    gpu = on_gpu(network("tiny cnn"))
    world.calls.clear()
    assert [len(array) for array in gpu.classify(np.stack(frames(1))[:0])] == [0, 0, 0]
    assert not world.calls


NO_IMAGES = {
    "width": (np.zeros((2, 3, 12, 11), np.float32), "a batch has shape (2, 3, 12, 11) and type float32; this network"),
    "one image": (np.zeros((3, 12, 12), np.float32), "a batch has shape (3, 12, 12)"),
    "float64": (np.zeros((2, 3, 12, 12)), "type float64; this network reads preprocessed images, float32"),
    "NaN": (np.full((2, 3, 12, 12), np.nan, np.float32), "a batch holds NaN or infinite numbers"),
    "a list": ([np.zeros((3, 12, 12), np.float32)], "a batch is no array but list; this network reads"),
    "nothing": (None, "a batch is no array but NoneType; this network reads"),
}


@pytest.mark.parametrize("what", NO_IMAGES)
def test_what_are_no_images_of_the_network_is_refused_before_anything_runs(
    what: str, network: Networks, world: World, tmp_path: Path
) -> None:
    images, message = NO_IMAGES[what]
    one = network("tiny cnn")
    gpu, host = on_gpu(one), on_host(one, tmp_path, "tiny cnn")
    world.calls.clear()
    for batch in (gpu, host):
        with pytest.raises(SourceError, match=re.escape(message)):
            batch.classify(images)  # type: ignore[arg-type]
    assert not world.calls


def test_memory_is_given_back_once_and_what_was_closed_says_so(network: Networks, world: World, tmp_path: Path) -> None:
    one, images = network("tiny cnn"), np.stack(frames(3))
    gpu, host = on_gpu(one), on_host(one, tmp_path, "tiny cnn")
    gpu.classify(images)
    gc.collect()
    before = world.calls.copy()
    for batch in (gpu, host):
        batch.close()
        batch.close()
        with pytest.raises(EngineError, match=r"this batch was closed; make another with `Backend\.make_batch`"):
            batch.classify(images)
    assert world.calls["mem_alloc"] == world.calls["free"] == 1
    for kind in ("pinned freed", "streams freed"):
        assert world.calls[kind] == before[kind] + 1
    assert world.calls["freed without a context"] == before["freed without a context"]


def test_what_is_sent_is_as_much_as_there_are_images(network: Networks, world: World) -> None:
    one = network("tiny cnn")
    gpu = on_gpu(one, 32)
    sent = []
    for count in (1, 32, 33):
        world.calls["bytes sent"] = 0
        gpu.classify(np.stack(frames(count)))
        sent.append(world.calls["bytes sent"])
    row = frames(1)[0].nbytes
    assert sent[1] - sent[0] == 31 * row
    assert sent[2] == sent[1] + sent[0]


def test_a_batch_for_engines_of_one_image_says_how_to_load_others(network: Networks) -> None:
    one = network("tiny cnn")
    with pytest.raises(EngineError, match=r"does not run a segment \(.*\); engines take many images where "):
        HostBatch(one.host).classify(np.stack(frames(2)))


def test_the_whole_network_is_a_batch_of_one_segment(network: Networks, tmp_path: Path) -> None:
    one = network("tiny cnn")
    whole = replace(one.precision, segments=(one.precision.whole,), temperatures=(1.0,))
    whole = replace(whole, thresholds=replace(whole.thresholds, values=()))
    engines = load_engines(tmp_path / "tiny cnn", whole.segments, OnnxRuntime(), batch=None)
    found = HostBatch(Classifier(input_spec=one.spec, precision=whole, engines=engines)).classify(np.stack(frames(9)))
    one.host.set_thresholds([NEVER, NEVER])
    assert found.label.tolist() == [one.host.classify(frame).label for frame in frames(9)]
    assert set(found.exit_index.tolist()) == {0}


def test_an_engine_that_does_not_take_the_memory_leaves_none_behind(network: Networks, world: World) -> None:
    one = network("tiny cnn")

    def refusing(addresses: dict[str, int]) -> Any:
        raise EngineError("no room")

    one.engines[2].bind_batch = refusing  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="no room"):
        on_gpu(one)
    assert world.calls["mem_alloc"] == world.calls["free"] == 1


@pytest.mark.parametrize("call", ["launch", "synchronize", "memcpy_htod_async", "enqueue segment 1"])
def test_a_failing_status_says_that_a_batch_was_classified_and_the_next_one_is(
    call: str, network: Networks, world: World
) -> None:
    gpu, images = on_gpu(network("tiny cnn")), np.stack(frames(5))
    gpu._classifier.set_thresholds([NEVER, NEVER])
    before = bits(gpu.classify(images))
    world.failing[call] = (CoreError if call == "launch" else DriverError)("CUDA_ERROR_UNKNOWN")
    with pytest.raises(EngineError, match=r"classifying a batch failed: .*CUDA_ERROR_UNKNOWN"):
        gpu.classify(images)
    assert world.depth() == 0
    world.failing.clear()
    assert bits(gpu.classify(images)) == before


def test_a_batch_that_failed_keeps_its_memory_until_what_was_started_is_done(network: Networks, world: World) -> None:
    gpu = on_gpu(network("tiny cnn"))
    world.failing["synchronize"] = DriverError("CUDA_ERROR_UNKNOWN")
    with pytest.raises(EngineError, match="CUDA_ERROR_UNKNOWN"):
        gpu.classify(np.stack(frames(5)))
    world.failing.clear()
    gpu.close()
    assert world.calls["mem_alloc"] == world.calls["free"] == 1
    assert world.ran[-1] == "survivors"


# Kernels


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("is_last", [False, True])
def test_survivors_are_listed_in_their_order_and_the_others_noted_where_they_belong(
    rows: int, share: float, is_last: bool, host_kernels: ctypes.CDLL
) -> None:
    from edge.cuda.kernels import DECIDED, SAID

    generator = np.random.default_rng(rows)
    exits = (generator.random(rows) < share).astype(np.uint8)
    label, confidence = generator.integers(0, 9, rows, dtype=np.int32), generator.random(rows, dtype=np.float32)
    image = np.sort(generator.permutation(2 * rows)[:rows]).astype(np.int32)
    said, decided = np.zeros(1, SAID), np.full(2 * rows, -1, dtype=DECIDED)
    said["label"], said["confidence"] = label.ctypes.data, confidence.ctypes.data
    said["exits"], said["exit_index"] = 0 if is_last else exits.ctypes.data, 3
    going_on, count, left = np.full(rows, -1, np.int32), np.zeros(1, np.int32), image.copy()
    at = [array.ctypes.data for array in (said, decided, left, going_on, count)]
    host_launch(host_kernels, "survivors", 1, 32, (at[0], rows, *at[1:]))
    stay = np.zeros(rows, bool) if is_last else exits == 0
    assert going_on[: count[0]].tolist() == np.flatnonzero(stay).tolist()
    assert left[: count[0]].tolist() == image[stay].tolist()
    expected = np.full(2 * rows, -1, dtype=DECIDED)
    for row in np.flatnonzero(~stay):
        expected[image[row]] = (3, confidence[row], label[row])
    np.testing.assert_array_equal(decided, expected)


@pytest.mark.parametrize(("name", "unit"), [("gather_bytes", 1), ("gather_words", 16)])
@pytest.mark.parametrize("units", [1, 255, 256, 300])
def test_the_rows_of_those_who_go_on_are_put_together(
    name: str, unit: int, units: int, host_kernels: ctypes.CDLL
) -> None:
    rows = np.array([0, 2, 3, 8], np.int32)
    source = np.random.default_rng(units).integers(0, 256, (9, units * unit), dtype=np.uint8)
    out = np.zeros((5, units * unit), np.uint8)
    for array in (source, out):
        assert array.ctypes.data % 16 == 0
    arguments = (source.ctypes.data, rows.ctypes.data, units, out.ctypes.data)
    host_launch(host_kernels, name, (-(-units // 256), len(rows)), 256, arguments)
    np.testing.assert_array_equal(out[:4], source[rows])
    assert not out[4].any()


def test_rows_that_are_no_whole_words_are_put_together_byte_by_byte(world: World) -> None:
    from cuda.core import Stream
    from pycuda import driver

    from edge.cuda.memory import NON_BLOCKING, PinnedMemory

    runtime = edge.cuda.get_runtime()
    with runtime.context.activate("gathering"):
        memory, stream = PinnedMemory({"from": 400, "rows": 8, "to": 400}), driver.Stream(NON_BLOCKING)
        memory.view("rows", np.int32)[:] = [1, 3]
        for nbytes, name in ((75, "gather_bytes"), (80, "gather_words")):
            rows = memory.view("from", np.uint8)[: 4 * nbytes]
            rows[:] = np.random.default_rng(nbytes).integers(1, 256, rows.size)
            at, on = memory.addresses, Stream.from_handle(stream.handle)
            runtime.kernels.gather(on, at["from"], at["rows"], 2, nbytes, at["to"])
            stream.synchronize()
            expected = rows.reshape(4, nbytes)[[1, 3]]
            np.testing.assert_array_equal(memory.view("to", np.uint8)[: 2 * nbytes].reshape(2, nbytes), expected)
            assert world.ran[-1] == name
