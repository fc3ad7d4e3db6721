"""Batched inference on a stand-in for a GPU, with the kernels run from their source."""

import ctypes
import gc
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

import edge.cuda
from edge.decision import NEVER, Predictions
from edge.errors import EngineError, SourceError
from edge.inference.base import Batch
from edge.inference.host import HostBatch
from tests.support.cuda_kernels import launch_on_host
from tests.support.cuda_networks import Networks, array_frames, image_batch
from tests.support.cuda_stand_in import CoreError, DriverError, World


def classify(batch: Batch, images: NDArray[np.float32], thresholds: ArrayLike) -> Predictions:
    return batch.classify(images, np.array(thresholds, dtype=np.float32))


def assert_same(actual: Predictions, expected: Predictions) -> None:
    """Compare predictions; a GPU rounds confidence and probability differently."""
    for name in ("exit_index", "label_index"):
        assert getattr(actual, name).tolist() == getattr(expected, name).tolist(), name
    for name in ("confidence", "probability"):
        assert getattr(actual, name) == pytest.approx(getattr(expected, name), abs=1e-5), name


def median_thresholds(batch: Batch, images: NDArray[np.float32], exits: int) -> list[float]:
    """Return thresholds that half of the images reach at each exit."""
    values = []
    for k in range(exits - 1):
        forced = classify(batch, images, [NEVER] * k + [0.0] * (exits - 1 - k))
        values.append(float(np.median(forced.confidence)))
    return values


@pytest.mark.parametrize("max_batch", [7, 40])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["two exits", "tiny cnn", "five exits", "two tensors"])
def test_gpu_and_host_batches_predict_the_same(name: str, precision: str, max_batch: int, network: Networks) -> None:
    tiny = network(name, precision=precision)
    gpu, host, images = tiny.batch(max_batch), tiny.host_batch(), image_batch(40)
    middle = median_thresholds(host, images, tiny.exits)
    for thresholds in (middle, [0.0] * (tiny.exits - 1), [NEVER] * (tiny.exits - 1)):
        expected, actual = (classify(batch, images, thresholds) for batch in (host, gpu))
        assert_same(actual, expected)
        if thresholds == middle:
            assert {0, tiny.exits - 1} <= set(expected.exit_index.tolist())


def test_the_host_waits_once_per_segment_that_runs(network: Networks, world: World) -> None:
    gpu, images = network("tiny cnn").batch(), image_batch(14)
    for segments, thresholds in ((1, [0.0, 0.0]), (2, [NEVER, 0.0]), (3, [NEVER, NEVER])):
        world.calls.clear()
        world.ran.clear()
        assert set(classify(gpu, images, thresholds).exit_index.tolist()) == {segments - 1}
        assert world.calls["synchronize"] == 2 * segments  # two parts of seven images
        assert [name for name in world.ran if name.startswith("segment")] == 2 * [
            f"segment {k}" for k in range(segments)
        ]
        assert world.calls["mem_alloc"] == 0


def test_confidence_at_the_threshold_exits_and_nan_stays_active(network: Networks, world: World) -> None:
    tiny = network("tiny cnn")
    gpu, images = tiny.batch(), image_batch(5)
    exact = classify(gpu, images, [0.0, NEVER]).confidence
    above = np.nextafter(exact[2], np.float32(2))
    for threshold, exits in ((exact[2], exact >= exact[2]), (above, exact > exact[2])):
        assert ((classify(gpu, images, [threshold, NEVER]).exit_index == 0) == exits).all()
    tiny.engines[0].change_logits = lambda logits: logits.__setitem__((1, 2), np.nan)
    assert classify(gpu, images, [0.0, NEVER]).exit_index.tolist() == [0, 2, 0, 0, 0]


def test_batches_are_not_copied_on_an_integrated_gpu(network: Networks, world: World) -> None:
    world.is_integrated = True
    tiny = network("tiny cnn")
    gpu, host, images = tiny.batch(), tiny.host_batch(), image_batch(40)
    thresholds = median_thresholds(host, images, tiny.exits)
    classify(gpu, images, thresholds)  # uploads the constants
    world.calls["bytes uploaded"] = 0
    expected = classify(host, images, thresholds)
    for _ in range(2):  # the kernels overwrite the sample indices in the host's memory
        assert_same(classify(gpu, images, thresholds), expected)
    assert world.calls["bytes uploaded"] == 0


def test_an_empty_batch_makes_no_cuda_call(network: Networks, world: World) -> None:
    gpu = network("tiny cnn").batch()
    world.calls.clear()
    assert [len(array) for array in classify(gpu, image_batch(1)[:0], [0.0, 0.0])] == [0, 0, 0, 0]
    assert not world.calls


def test_predict_batch_runs_on_the_gpu_and_refuses_other_shapes(network: Networks, world: World) -> None:
    tiny = network("tiny cnn")
    with tiny.classifier() as gpu:
        frames = [frame.pixels for frame in array_frames(9)]
        predictions = gpu.predict_batch(frames)
        slot = tiny.host_slot()
        for frame, prediction in zip(array_frames(9), predictions, strict=True):
            slot.start(frame, np.array(tiny.thresholds, np.float32))
            expected = slot.result()
            assert prediction[1:] == pytest.approx(expected[1:], rel=1e-5)
        assert gpu.predict_batch([]) == []
        ran = len(world.ran)
        for wrong in (frames[0][:, :-1], np.full((3, 12, 12), np.nan, np.float32)):
            with pytest.raises(SourceError):
                gpu.predict_batch([frames[0], wrong])
        assert len(world.ran) == ran
    gc.collect()
    assert world.calls["mem_alloc"] == world.calls["free"]


def test_closing_frees_the_memory_once_and_a_closed_batch_is_refused(network: Networks, world: World) -> None:
    gpu, images = network("tiny cnn").batch(), image_batch(3)
    classify(gpu, images, [0.0, 0.0])
    gc.collect()
    before = world.calls.copy()
    gpu.close()
    gpu.close()
    with pytest.raises(EngineError, match="this batch was closed; load the classifier again"):
        classify(gpu, images, [0.0, 0.0])
    assert world.calls["mem_alloc"] == world.calls["free"]
    for kind in ("pinned freed", "streams freed"):
        assert world.calls[kind] == before[kind] + 1
    assert world.calls["freed without a context"] == before["freed without a context"]


def test_only_as_many_images_as_given_are_uploaded(network: Networks, world: World) -> None:
    gpu = network("tiny cnn").batch(32)
    classify(gpu, image_batch(1), [NEVER, NEVER])  # uploads the constants
    uploaded = []
    for count in (1, 32, 33):
        world.calls["bytes uploaded"] = 0
        classify(gpu, image_batch(count), [NEVER, NEVER])
        uploaded.append(world.calls["bytes uploaded"])
    assert uploaded[1] - uploaded[0] == 31 * image_batch(1).nbytes
    assert uploaded[2] == uploaded[1] + uploaded[0]


def test_the_whole_network_is_a_batch_of_one_segment(network: Networks) -> None:
    whole = network("tiny cnn", is_whole=True)
    gpu, host, images = whole.batch(), whole.host_batch(), image_batch(9)
    predictions = classify(gpu, images, ())
    assert_same(predictions, classify(host, images, ()))
    assert set(predictions.exit_index.tolist()) == {0}


def test_host_engines_of_batch_1_refuse_several_images_with_a_remedy(network: Networks) -> None:
    tiny = network("tiny cnn")
    batch = HostBatch(tiny.chain, tiny.load_host_engines(batch=1))
    with pytest.raises(EngineError, match="load the engine with batch=None for several images"):
        classify(batch, image_batch(2), [0.0, 0.0])


def test_an_engine_that_refuses_an_address_leaves_no_memory_behind(network: Networks, world: World) -> None:
    tiny = network("tiny cnn")

    def refuse(addresses: dict[str, int]) -> Any:
        raise EngineError("no room")

    tiny.engines[2].bind_batch = refuse  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="no room"):
        tiny.batch()
    assert world.calls["mem_alloc"] == world.calls["free"]


@pytest.mark.parametrize("call", ["launch", "synchronize", "memcpy_htod_async", "enqueue segment 1"])
def test_a_failing_status_names_the_task_and_the_next_batch_works(call: str, network: Networks, world: World) -> None:
    gpu, images = network("tiny cnn").batch(), image_batch(5)
    before = classify(gpu, images, [NEVER, NEVER])
    world.failing[call] = (CoreError if call == "launch" else DriverError)("CUDA_ERROR_UNKNOWN")
    with pytest.raises(EngineError, match=r"classifying a batch failed: .*CUDA_ERROR_UNKNOWN"):
        classify(gpu, images, [NEVER, NEVER])
    assert world.depth() == 0
    world.failing.clear()
    assert_same(classify(gpu, images, [NEVER, NEVER]), before)


def test_a_failed_batch_keeps_its_memory_until_started_work_is_done(network: Networks, world: World) -> None:
    gpu = network("tiny cnn").batch()
    world.failing["synchronize"] = DriverError("CUDA_ERROR_UNKNOWN")
    with pytest.raises(EngineError, match="CUDA_ERROR_UNKNOWN"):
        classify(gpu, image_batch(5), [0.0, 0.0])
    world.failing.clear()
    gpu.close()
    assert world.calls["mem_alloc"] == world.calls["free"]
    assert world.ran[-1] == "compact"


# Kernels


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_compact_lists_active_rows_in_order_and_keeps_the_final_decisions(
    rows: int, share: float, host_kernels: ctypes.CDLL
) -> None:
    from edge.cuda.kernels import PREDICTION

    generator = np.random.default_rng(rows)
    decisions = generator.integers(2, 2**20, 5 * rows, dtype=np.int32).view(PREDICTION)
    decisions["is_final"] = generator.random(rows) < share
    samples = np.sort(generator.permutation(2 * rows)[:rows]).astype(np.int32)
    active_rows, active_count, active_samples = np.full(rows, -1, np.int32), np.zeros(1, np.int32), samples.copy()
    predictions, is_active = np.zeros(2 * rows, dtype=PREDICTION), decisions["is_final"] == 0
    addresses = [array.ctypes.data for array in (decisions, predictions, active_samples, active_rows, active_count)]
    launch_on_host(host_kernels, "compact", 1, 32, (addresses[0], rows, *addresses[1:]))
    assert active_rows[: active_count[0]].tolist() == np.flatnonzero(is_active).tolist()
    assert active_samples[: active_count[0]].tolist() == samples[is_active].tolist()
    expected = np.zeros(2 * rows, dtype=PREDICTION)
    expected[samples[~is_active]] = decisions[~is_active]
    assert predictions.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("name", "unit"), [("gather_bytes", 1), ("gather_words", 16)])
@pytest.mark.parametrize("units", [1, 255, 256, 300])
def test_gather_copies_the_listed_rows(name: str, unit: int, units: int, host_kernels: ctypes.CDLL) -> None:
    rows = np.array([0, 2, 3, 8], np.int32)
    source = np.random.default_rng(units).integers(0, 256, (9, units * unit), dtype=np.uint8)
    out = np.zeros((5, units * unit), np.uint8)
    for array in (source, out):
        assert array.ctypes.data % 16 == 0
    arguments = (source.ctypes.data, rows.ctypes.data, units, out.ctypes.data)
    launch_on_host(host_kernels, name, (-(-units // 256), len(rows)), 256, arguments)
    np.testing.assert_array_equal(out[:4], source[rows])
    assert not out[4].any()


def test_rows_that_are_no_multiple_of_16_bytes_are_gathered_byte_by_byte(world: World) -> None:
    from edge.cuda.memory import Memory
    from edge.cuda.stream import GpuStream

    runtime = edge.cuda.get_runtime()
    with runtime.activate("gathering"):
        memory, stream = Memory({"from": 400, "rows": 8, "to": 400}), GpuStream()
        memory.view("rows", np.int32)[:] = [1, 3]
        source, rows, out = memory.addresses.values()
        for row_bytes, name in ((75, "gather_bytes"), (80, "gather_words")):
            values = memory.view("from", np.uint8)[: 4 * row_bytes]
            values[:] = np.random.default_rng(row_bytes).integers(1, 256, values.size)
            runtime.kernels.gather(source, rows, 2, row_bytes, out).on(stream)
            stream.synchronize()
            expected = values.reshape(4, row_bytes)[[1, 3]]
            np.testing.assert_array_equal(memory.view("to", np.uint8)[: 2 * row_bytes].reshape(2, row_bytes), expected)
            assert world.ran[-1] == name
