"""CUDA slots on a stand-in for a GPU: the host slot's predictions with one wait per frame."""

import ctypes
import itertools
import platform
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edge.cuda
from edge.bundle.manifest import InputSpec, Rejection
from edge.decision import NEVER, scores_from_logits
from edge.errors import EngineError, SourceError
from edge.frames.base import Frame, PixelFormat
from edge.frames.preprocess import preprocess_for
from edge.inference.host import calibrated_probability
from tests.support.cuda_kernels import KERNELS, launch_on_host
from tests.support.cuda_networks import IMAGES, Networks, array_frames, image_batch, predict, predict_all
from tests.support.cuda_stand_in import World

MODES = ("graph", "stepwise")
EXITS = {2: "two exits", 3: "tiny cnn", 5: "five exits"}


def random_frame(pixel_format: PixelFormat, shape: tuple[int, ...], seed: int = 0) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), pixel_format)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("exits", EXITS)
def test_gpu_and_host_predict_the_same_at_every_exit(exits: int, mode: str, network: Networks) -> None:
    tiny = network(EXITS[exits])
    assert tiny.exits == exits
    gpu, host = tiny.slot(mode), tiny.host_slot()
    taken = set()
    for thresholds in ([0.0] * (exits - 1), [NEVER] * (exits - 1), tiny.thresholds):
        expected = predict_all(host, array_frames(12), thresholds)
        assert predict_all(gpu, array_frames(12), thresholds) == expected
        taken |= {exit_index for _, exit_index, _, _ in expected}
    assert {0, exits - 1} <= taken


@pytest.mark.parametrize("mode", MODES)
def test_whole_network_predicts_as_on_the_host_at_its_only_exit(mode: str, network: Networks) -> None:
    whole = network("tiny cnn", is_whole=True)
    expected = predict_all(whole.host_slot(), array_frames(4), ())
    assert predict_all(whole.slot(mode), array_frames(4), ()) == expected
    assert {exit_index for _, exit_index, _, _ in expected} == {0}


def test_predictions_name_the_label(network: Networks) -> None:
    tiny = network("tiny cnn")
    prediction = predict(tiny.slot(), array_frames(1)[0], tiny.thresholds)
    assert prediction.label == f"class {prediction.label_index}"


@pytest.mark.parametrize("mode", MODES)
def test_confidence_at_the_threshold_exits_and_nan_never_does(mode: str, network: Networks) -> None:
    tiny = network("tiny cnn")
    [frame] = array_frames(1)
    gpu = tiny.slot(mode)
    exact = predict(gpu, frame, [0, 0]).confidence
    above = float(np.nextafter(np.float32(exact), np.float32(2)))
    for threshold, exit_index in ((exact, 0), (above, 1)):
        assert predict(gpu, frame, [threshold, 0]).exit_index == exit_index
    tiny.engines[0].change_logits = lambda logits: logits.fill(np.nan)
    assert predict(gpu, frame, [0, 0]).exit_index == 1


def test_the_last_exit_rejects_in_a_slot_and_in_a_batch(network: Networks) -> None:
    tiny = network("tiny cnn")
    [frame] = array_frames(1)
    confidence = predict(tiny.slot(), frame, [NEVER, NEVER]).confidence
    for threshold, is_rejected in ((confidence, False), (np.nextafter(np.float32(confidence), np.float32(2)), True)):
        tiny.chain = replace(tiny.chain, rejection=Rejection(float(threshold), 0.1, 0.9, "betting", 1.0, 9, "s"))
        with tiny.classifier() as classifier:
            classifier.thresholds = (NEVER, NEVER)
            for prediction in (classifier.predict(frame), *classifier.predict_batch([frame])):
                assert (prediction.label == "none") == (prediction.label_index == -1) == is_rejected
            classifier.thresholds = (0, 0)
            assert classifier.predict(frame).label != "none"


def test_graph_mode_takes_one_launch_and_one_wait_and_runs_no_later_segment(network: Networks, world: World) -> None:
    gpu = network("five exits").slot("graph")
    [frame] = array_frames(1)
    predict(gpu, frame, [0] * 4)
    for exit_index in range(5):
        world.calls.clear()
        world.ran.clear()
        predict(gpu, frame, [NEVER] * exit_index + [0.0] * (4 - exit_index))
        calls = {name: count for name, count in world.calls.items() if name not in ("push", "pop", "bytes uploaded")}
        del calls["blocking waits"]
        assert calls == {"graph launch": 1, "wait record": 1, "synchronize": 1}
        assert [name for name in world.ran if name.startswith("segment")] == [
            f"segment {k}" for k in range(exit_index + 1)
        ]


def test_stepwise_mode_waits_once_per_exit_and_makes_no_graph(network: Networks, world: World) -> None:
    gpu = network("tiny cnn").slot("stepwise")
    [frame] = array_frames(1)
    predict(gpu, frame, [0, 0])
    for exit_index in range(3):
        world.calls["synchronize"] = 0
        predict(gpu, frame, [NEVER] * exit_index + [0.0] * (2 - exit_index))
        assert world.calls["synchronize"] == exit_index + 1
    assert not {"graph definition", "cuStreamBeginCapture", "graph launch"} & {*world.calls}


@pytest.mark.parametrize("faster", ["mapped", "copied"])
def test_an_integrated_gpu_reads_frames_in_the_faster_of_two_ways(
    faster: str, network: Networks, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower way takes a millisecond longer, and blocking two."""
    from edge.cuda import autotune

    world.is_integrated = True
    tiny, frame = network("tiny cnn", spec=IMAGES), random_frame(PixelFormat.BGR, (40, 60, 3))
    expected = predict(tiny.host_slot(), frame, tiny.thresholds)
    measure = autotune._frame_ms

    def frame_ms(executor: Any) -> float:
        world.calls["bytes uploaded"] = 0
        measure(executor)
        return 1.0 + ((world.calls["bytes uploaded"] > 0) != (faster == "copied"))

    monkeypatch.setattr(autotune, "_frame_ms", frame_ms)
    slot, other = tiny.slot(), tiny.slot()
    for used in (slot, other):
        actual = predict(used, frame, tiny.thresholds)
        assert (actual.label_index, actual.exit_index) == (expected.label_index, expected.exit_index)
    world.calls["bytes uploaded"] = 0
    predict(slot, frame, tiny.thresholds)
    assert (world.calls["bytes uploaded"] > 0) == (faster == "copied")
    assert slot.tuning.transfer == faster
    times = {"mapped": 1.0, "copied": 2.0} if faster == "mapped" else {"mapped": 2.0, "copied": 1.0}
    assert slot.tuning.median_ms == {
        f"{transfer}, {wait}": times[transfer] for transfer in times for wait in ("spin", "block")
    }
    assert slot.tuning is other.tuning


@pytest.mark.parametrize(("blocking_ms", "sync"), [(1.04, "block"), (1.06, "spin")])
def test_threads_block_where_that_takes_hardly_longer_than_spinning(
    blocking_ms: float, sync: str, network: Networks, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.cuda import autotune

    def frame_ms(executor: Any) -> float:
        world.calls["blocking waits"] = 0
        executor.start()
        executor.finish()
        return blocking_ms if world.calls["blocking waits"] else 1.0

    monkeypatch.setattr(autotune, "_frame_ms", frame_ms)
    slot, [frame] = network("tiny cnn").slot(), array_frames(1)
    world.calls["blocking waits"] = 0
    predict(slot, frame, [0, 0])
    assert (slot.tuning.sync, world.calls["blocking waits"]) == (sync, int(sync == "block"))


@pytest.mark.parametrize("faster", ["mapped", "copied"])
def test_clocks_that_rise_during_the_comparison_favour_no_combination(
    faster: str, network: Networks, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower way takes 20 % longer, and so does blocking; each frame takes 2 % less than the one before."""
    from edge.cuda import autotune

    world.is_integrated = True
    times_ms = (100 * 0.98**call for call in itertools.count())

    def frame_ms(executor: Any) -> float:
        world.calls["bytes uploaded"] = world.calls["blocking waits"] = 0
        executor.start()
        executor.finish()
        is_slower = (world.calls["bytes uploaded"] > 0) != (faster == "copied")
        return next(times_ms) * 1.2 ** (is_slower + (world.calls["blocking waits"] > 0))

    monkeypatch.setattr(autotune, "_frame_ms", frame_ms)
    tuning = network("tiny cnn", spec=IMAGES).slot().tuning
    assert (tuning.transfer, tuning.sync) == (faster, "spin")


@pytest.mark.parametrize("sync", ["spin", "block"])
def test_threads_wait_as_the_backend_was_told_whatever_is_faster(sync: str, network: Networks, world: World) -> None:
    tiny, [frame] = network("tiny cnn"), array_frames(1)
    tiny.engines[0].sync = sync
    slot, batch = tiny.slot(), tiny.batch()
    assert (slot.tuning.sync, list(slot.tuning.median_ms)) == (sync, [f"copied, {sync}"])
    for wait in (lambda: predict(slot, frame, [0, 0]), lambda: batch.classify(image_batch(2), np.zeros(2, np.float32))):
        world.calls["blocking waits"] = world.calls["synchronize"] = 0
        wait()
        assert world.calls["blocking waits"] == (world.calls["synchronize"] if sync == "block" else 0)
        assert world.calls["synchronize"]


@pytest.mark.parametrize(("is_integrated", "transfers"), [(False, 1), (True, 2)])
def test_the_executor_of_the_fastest_transfer_is_made_once_and_kept(
    is_integrated: bool, transfers: int, network: Networks, world: World
) -> None:
    world.is_integrated = is_integrated
    tiny = network("tiny cnn", spec=IMAGES)
    for made in (transfers, 1):  # the first slot compares all transfers
        world.calls["instantiate"] = world.calls["graphs alive"] = 0
        slot = tiny.slot()
        assert (world.calls["instantiate"], world.calls["graphs alive"]) == (made, 1)
    predict(slot, random_frame(PixelFormat.BGR, (12, 12, 3)), [0, 0])
    assert world.calls["instantiate"] == 1


FRAMES = {
    "BGR of the network's size": ((12, 12, 3), PixelFormat.BGR),
    "BGR": ((40, 60, 3), PixelFormat.BGR),
    "small BGR": ((9, 7, 3), PixelFormat.BGR),
    "gray": ((33, 21), PixelFormat.GRAY),
    "BGRx of the network's size": ((12, 12, 4), PixelFormat.BGRX),
    "BGRx": ((40, 60, 4), PixelFormat.BGRX),
    "NV12 of the network's size": ((18, 12), PixelFormat.NV12),
    "NV12": ((60, 60), PixelFormat.NV12),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("mode", MODES)
def test_images_are_preprocessed_as_on_the_host(mode: str, name: str, network: Networks) -> None:
    slot, (shape, pixel_format) = network("tiny cnn", spec=IMAGES).slot(mode), FRAMES[name]
    expected = np.empty(IMAGES.shape, np.float32)
    for seed in range(3):
        frame = random_frame(pixel_format, shape, seed)
        predict(slot, frame, [0, 0])
        assert slot.buffer is not None
        assert slot.buffer.format is pixel_format
        preprocess_for(IMAGES)(frame, expected)
        if shape[0] >= IMAGES.height and platform.machine() == "x86_64":
            np.testing.assert_array_equal(slot.tensors()["image"][0], expected)
        levels = np.abs(slot.tensors()["image"][0] - expected) * np.array(IMAGES.std)[:, None, None] * 255
        assert levels.max() <= 1.001
        assert (levels < 0.001).mean() > 0.9


def test_a_source_may_decode_into_the_slots_buffer(network: Networks) -> None:
    slot = network("tiny cnn", spec=IMAGES).slot("graph")
    first, second = (random_frame(PixelFormat.BGR, (20, 30, 3), seed) for seed in range(2))
    predict(slot, first, [0, 0])
    buffer = slot.buffer
    assert buffer is not None
    np.testing.assert_array_equal(buffer.pixels, first.pixels)
    before = slot.tensors()["image"].copy()
    buffer.pixels[:] = second.pixels
    predict(slot, buffer, [0, 0])
    assert not np.array_equal(slot.tensors()["image"], before)


@pytest.mark.parametrize(
    "frame",
    [
        Frame(np.zeros((4, 4, 5), np.uint8), PixelFormat.BGR),
        Frame(np.zeros((4, 4, 3), np.float32), PixelFormat.BGR),
        Frame(np.zeros((4, 4), np.uint8), PixelFormat.NV12),
        Frame(np.zeros((4, 4, 3), np.uint8), PixelFormat.ARRAY),
    ],
)
def test_frames_that_are_no_8_bit_images_are_refused_before_any_cuda_call(
    frame: Frame, world: World, network: Networks
) -> None:
    slot = network("tiny cnn", spec=IMAGES).slot("graph")
    before = world.calls.copy()
    with pytest.raises(SourceError, match="this bundle reads 8-bit images"):
        predict(slot, frame, [0, 0])
    assert world.calls == before


def test_a_float_frame_is_refused_after_an_8_bit_frame_of_its_size(network: Networks) -> None:
    slot = network("tiny cnn", spec=IMAGES).slot("graph")
    image = Frame(np.zeros((20, 30, 3), np.uint8), PixelFormat.BGR)
    predict(slot, image, [0, 0])
    with pytest.raises(SourceError, match="dtype float32; this bundle reads 8-bit images"):
        predict(slot, Frame(np.zeros((20, 30, 3), np.float32), PixelFormat.BGR), [0, 0])
    assert predict(slot, image, [0, 0]).exit_index >= 0


def test_nv12_and_gray_frames_of_one_shape_are_preprocessed_differently(network: Networks) -> None:
    slot = network("tiny cnn", spec=IMAGES).slot("graph")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20), dtype=np.uint8)
    inputs = []
    for pixel_format in (PixelFormat.GRAY, PixelFormat.NV12, PixelFormat.GRAY):
        predict(slot, Frame(pixels, pixel_format), [0, 0])
        inputs.append(slot.tensors()["image"])
    np.testing.assert_array_equal(inputs[0], inputs[2])
    assert not np.array_equal(inputs[0], inputs[1])


def test_frames_in_flight_keep_the_thresholds_they_were_started_with(network: Networks) -> None:
    classifier = network("tiny cnn").classifier()
    early, late = classifier.new_slot(), classifier.new_slot()
    for slot, thresholds in ((early, [0, 0]), (late, [NEVER, NEVER])):
        slot.start(array_frames(1)[0], np.array(thresholds, np.float32))
    classifier.thresholds = (NEVER, 0.0)
    assert (late.result().exit_index, early.result().exit_index) == (2, 0)


def test_a_slot_without_a_frame_has_no_result(network: Networks) -> None:
    slot = network("tiny cnn").slot("graph")
    for read in (slot.result, slot.tensors):
        with pytest.raises(EngineError, match=r"this slot has no frame; call start\(\) first"):
            read()


def test_each_thread_has_its_own_context_stack(network: Networks, world: World) -> None:
    tiny = network("tiny cnn")
    expected = predict_all(tiny.host_slot(), array_frames(8), tiny.thresholds)
    results: dict[int, list[Any]] = {}

    def work(index: int) -> None:
        results[index] = predict_all(tiny.slot("graph"), array_frames(8), tiny.thresholds)
        assert world.depth() == 0

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert results == {0: expected, 1: expected}


SIZES = {"few": 4, "many": 1000, "constant": 300, "output": 600, "workspace": 2000}


@pytest.mark.parametrize("uploads", [True, False])
def test_uploads_reach_the_gpu_and_touch_nothing_else(uploads: bool, world: World) -> None:
    from pycuda import driver

    from edge.cuda.memory import Memory
    from edge.cuda.stream import GpuStream

    inputs, constants, outputs, workspace = (
        {name: SIZES[name] for name in names} for names in (("few", "many"), ("constant",), ("output",), ("workspace",))
    )
    generator = np.random.default_rng(0)
    expected = {name: generator.integers(1, 256, size, dtype=np.uint8) for name, size in SIZES.items()}
    with edge.cuda.get_runtime().activate("uploading"):
        stream = GpuStream()
        memory = Memory(inputs | constants | outputs, (inputs if uploads else {}) | constants | workspace)
        driver.memcpy_htod(memory.addresses["workspace"], expected["workspace"])
        for name in (*inputs, *constants, *outputs):
            memory.view(name, np.uint8)[:] = expected[name]
        for name in (*inputs, *constants) if uploads else constants:
            memory.upload(name).on(stream)
        stream.synchronize()
        for name, values in expected.items():
            np.testing.assert_array_equal(memory.download(name, values.shape, "uint8"), values)
        [(base, size)] = [(at, size) for at, size in world.pinned.items() if at not in world.freed]
        pinned = {name for name, address in memory.addresses.items() if base <= address < base + size}
        assert pinned == ({*outputs} if uploads else {*outputs, *inputs})
        memory.close()


# Kernels


@pytest.mark.parametrize("arch", ["sm_87", "sm_90", "sm_110", "sm_121"])
def test_kernels_compile_once_per_architecture(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.cuda import kernels

    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    cubin = bytes(kernels.compile_kernels(arch).code)
    assert cubin.startswith(b"\x7fELF")
    assert all(name.encode() + b"\0" in cubin for name in KERNELS)
    [file] = [file for file in (tmp_path / "cache" / "kernels").rglob("*") if file.is_file()]
    file.write_bytes(cubin[::-1])  # a second compilation would not read it
    assert bytes(kernels.compile_kernels(arch).code) == cubin[::-1]
    assert [path.stat().st_mode & 0o77 for path in (file.parents[3], file.parents[2])] == [0, 0]


def smooth_frame(pixel_format: PixelFormat, size: tuple[int, int]) -> Frame:
    height, width = size
    channels = {PixelFormat.BGR: 3, PixelFormat.BGRX: 4}.get(pixel_format, 1)
    rows = height * 3 // 2 if pixel_format is PixelFormat.NV12 else height
    small = np.random.default_rng(0).integers(0, 256, (6, 8, channels), dtype=np.uint8)
    pixels = cv2.resize(small, (width, rows), interpolation=cv2.INTER_CUBIC).reshape(rows, width, channels)
    return Frame(pixels[:, :, 0] if channels == 1 else pixels, pixel_format)


GRAY = InputSpec("image", "gray", 1, 20, 28, (0.4,), (0.2,))
COLOUR = InputSpec("image", "rgb", 3, 20, 28, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.mark.parametrize("spec", [GRAY, COLOUR], ids=["gray", "colour"])
@pytest.mark.parametrize("pixel_format", [f for f in PixelFormat if f is not PixelFormat.ARRAY])
@pytest.mark.parametrize("size", [(20, 28), (40, 56), (480, 640), (1080, 1920), (18, 22), (2, 2)])
@pytest.mark.parametrize("padding", [0, 12])
def test_the_preprocess_kernel_matches_preprocessing_on_the_host(
    size: tuple[int, int], pixel_format: PixelFormat, spec: InputSpec, padding: int, host_kernels: ctypes.CDLL
) -> None:
    """Bit for bit where images shrink, and within one of 255 levels where they are enlarged."""
    from edge.cuda.preprocess_params import preprocess_params

    frame = smooth_frame(pixel_format, size)
    rows = frame.pixels.reshape(frame.pixels.shape[0], -1)
    padded = np.ascontiguousarray(np.pad(rows, ((0, 0), (0, padding)), constant_values=77))
    params = preprocess_params(frame, spec)
    params["pitch"] = padded.shape[1]
    actual, expected = np.empty(spec.shape, np.float32), np.empty(spec.shape, np.float32)
    grid = (-(-spec.width // 32), -(-spec.height // 8))
    addresses = [array.ctypes.data for array in (padded, params, actual)]
    launch_on_host(host_kernels, "preprocess", grid, (32, 8), addresses)
    preprocess_for(spec)(frame, expected)
    if size[0] >= spec.height and platform.machine() == "x86_64":
        np.testing.assert_array_equal(actual, expected)
    else:  # OpenCV enlarges, and works on ARM, by other code
        levels = np.abs(actual - expected) * np.array(spec.std)[:, None, None] * 255
        assert levels.max() <= 1.001
        assert (levels < 0.001).mean() > 0.85


def host_decisions(kernels: ctypes.CDLL, logits: NDArray[np.float32], threshold: float | None) -> NDArray[np.void]:
    """Return the decision of the kernels for each row; they agree, and set the condition of a single row."""
    from edge.cuda.kernels import PREDICTION

    limit, decisions, single = (
        np.array([threshold or 0], np.float32),
        *(np.zeros(n, PREDICTION) for n in (len(logits), 1)),
    )
    scale, condition = np.float32(1 / TEMPERATURE), ctypes.c_uint(9)
    rule = (logits.ctypes.data, 0 if threshold is None else limit.ctypes.data, logits.shape[1], 3, scale)
    launch_on_host(kernels, "decide", len(logits), 32, (*rule, decisions.ctypes.data))
    arguments = (ctypes.addressof(condition), *rule, single.ctypes.data)
    launch_on_host(kernels, "decide_and_set_condition", 1, 32, arguments)
    assert single.tobytes() == decisions[:1].tobytes()
    assert condition.value == (not single["is_final"][0])
    return decisions


TEMPERATURE = 1.5


@pytest.mark.parametrize("classes", [1, 2, 4, 17, 32, 33, 1000])
def test_the_exit_kernels_decide_as_the_exit_rule(classes: int, host_kernels: ctypes.CDLL) -> None:
    """Random logits, with ties, NaN and infinities among them."""
    generator = np.random.default_rng(classes)
    logits = generator.normal(0, 3, (60, classes)).astype(np.float32)
    logits[::5] = logits[::5].round(0)  # equal logits: the first class wins
    for row, value in ((3, np.nan), (7, np.inf), (11, -np.inf)):
        logits[row, generator.integers(classes)] = value
    logits[13], logits[17, :] = np.nan, -np.inf
    expected = scores_from_logits(logits[None])
    for threshold in (0.0, float(np.nanmedian(expected.confidence)), NEVER, None):
        decided = host_decisions(host_kernels, logits, threshold)
        np.testing.assert_allclose(decided["confidence"], expected.confidence[0], rtol=1e-5)
        np.testing.assert_array_equal(decided["label_index"], expected.label[0])
        np.testing.assert_allclose(decided["probability"], calibrated_probability(logits, TEMPERATURE), rtol=1e-5)
        assert set(decided["exit_index"].tolist()) == {3}
        with_nan = np.isnan(expected.confidence[0])
        assert with_nan[[3, 7, 13, 17]].all()
        own = decided["confidence"] >= np.float32(threshold) if threshold is not None else True
        np.testing.assert_array_equal(decided["is_final"] == 1, own)
        if threshold is not None:
            assert not decided["is_final"][with_nan].any()


def test_a_confidence_at_the_threshold_is_final_and_the_next_number_is_not(host_kernels: ctypes.CDLL) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (1, 10)).astype(np.float32)
    exact = host_decisions(host_kernels, logits, 0.0)["confidence"][0]
    for threshold, is_final in ((exact, 1), (np.nextafter(exact, np.float32(2)), 0)):
        assert host_decisions(host_kernels, logits, float(threshold))["is_final"][0] == is_final
