"""Missing support and failing calls in the CUDA runtime, and the release of resources."""

import gc
import importlib.util
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest

import edge.cuda
from edge.decision import NEVER
from edge.doctor.nvidia import check_graph_mode
from edge.errors import EngineError, SourceError
from edge.frames.base import Frame, PixelFormat
from edge.inference.record import record
from edge.system import pip_install
from tests.support.cuda_networks import IMAGES, Networks, SessionEngine, array_frames, predict, predict_all
from tests.support.cuda_stand_in import (
    CoreError,
    DriverError,
    GraphNode,
    HostCallbackNode,
    World,
)


def bgr_frame(height: int) -> Frame:
    return Frame(np.full((height, 30, 3), height, np.uint8), PixelFormat.BGR)


# Missing support


def test_doctor_reports_missing_conditional_nodes_with_the_reason(world: World) -> None:
    assert check_graph_mode().value == "available: one CUDA graph and one wait per frame"
    world.failing["if_then"] = CoreError("CUDA_ERROR_NOT_SUPPORTED")
    check = check_graph_mode()
    assert check.value == "unavailable: CUDA_ERROR_NOT_SUPPORTED"
    assert not check.ok
    from edge.cuda.runtime import _open_once, _retain_context

    world.failing["init"] = DriverError("CUDA_ERROR_NO_DEVICE")
    _open_once.cache_clear()
    _retain_context.cache_clear()
    assert check_graph_mode().value == "unavailable: CUDA_ERROR_NO_DEVICE"


@pytest.mark.parametrize(
    ("driver_version", "remedy"),
    [(12040, "update the driver to CUDA 12.5 or later"), (12050, "report it with the GPU and the driver")],
)
def test_only_an_old_driver_is_to_be_updated(driver_version: int, remedy: str, world: World) -> None:
    world.driver_version, world.failing["if_then"] = driver_version, CoreError("CUDA_ERROR_NOT_SUPPORTED")
    assert check_graph_mode().remedy == f"{remedy}; meanwhile, the host checks each exit"


def test_doctor_reports_a_gpu_that_fails_and_frees_its_memory(world: World) -> None:
    world.failing["memcpy_htod_async"] = DriverError("CUDA_ERROR_UNKNOWN")
    check = check_graph_mode()
    assert check.state == "problem"
    assert check.value.startswith("unavailable: preparing for frames failed: DriverError: CUDA_ERROR_UNKNOWN")
    assert world.calls["mem_alloc"] == world.calls["free"]


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="pycuda is installed")
def test_without_pycuda_doctor_names_the_packages_to_install() -> None:
    check = check_graph_mode()
    assert check.value.startswith("unavailable: No module named 'pycuda")
    assert pip_install("cuda13") in check.remedy


@pytest.mark.parametrize("run_bodies", [True, False])
def test_doctor_detects_ignored_conditions(run_bodies: bool, world: World) -> None:
    world.run_bodies = run_bodies
    assert check_graph_mode().value.startswith("unavailable: predicted ")
    assert world.calls["graphs alive"] == 0


def test_doctor_detects_a_driver_without_nested_conditions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if_then = GraphNode.if_then

    def refuse_nested(node: GraphNode, condition: Any) -> Any:
        if node.graph.root is not node.graph:
            raise CoreError("CUDA_ERROR_NOT_SUPPORTED")
        return if_then(node, condition)

    monkeypatch.setattr(GraphNode, "if_then", refuse_nested)
    assert "CUDA_ERROR_NOT_SUPPORTED" in check_graph_mode().value


@pytest.mark.parametrize("run_bodies", [True, False])
def test_conditions_ignored_later_are_detected_before_the_first_prediction(
    run_bodies: bool, network: Networks, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = network("tiny cnn")
    world.run_bodies = run_bodies
    gpu, host = tiny.slot("graph"), tiny.host_slot()
    for exit_index, frame in enumerate(array_frames(3)):
        thresholds = [NEVER] * exit_index + [0.0] * (2 - exit_index)
        actual, expected = (predict(slot, frame, thresholds) for slot in (gpu, host))
        assert (actual.label_index, actual.exit_index) == (expected.label_index, expected.exit_index)
    assert "the chain cannot be one CUDA graph, so the host checks each exit: predicted" in caplog.text
    gpu.close()
    assert world.calls["graphs alive"] == 0


PREDICTED = {"label_index": 3, "confidence": 0.5, "probability": 0.6, "exit_index": 1, "is_final": 1}


DIFFERENT: dict[str, dict[str, Any]] = {
    **{name: {name: value} for name, value in (("label_index", 4), ("exit_index", 2), ("is_final", 0))},
    **{name: {name: 0.55} for name in ("confidence", "probability")},
    "NaN": {"probability": np.nan},
    "nothing": dict.fromkeys(PREDICTED, 0),
}


@pytest.mark.parametrize("forced", range(3))
@pytest.mark.parametrize("name", DIFFERENT)
def test_predictions_differ_if_one_field_of_one_exit_does(name: str, forced: int, world: World) -> None:
    from edge.cuda.executor import diff_predictions
    from edge.cuda.kernels import PREDICTION

    expected = np.zeros((3, 3), PREDICTION)
    for field, value in PREDICTED.items():
        expected[field] = value
    actual = expected.copy()
    assert not diff_predictions(actual, expected)
    for field, value in DIFFERENT[name].items():
        actual[field][forced, forced] = value
    for given, other in ((actual, expected), (expected, actual)):
        assert diff_predictions(given, other) == f"{given[forced]} instead of {other[forced]}"
    assert not diff_predictions(actual, actual.copy())  # NaN equals NaN


def test_a_segment_with_nodes_not_allowed_in_a_body_runs_stepwise_with_a_warning(
    network: Networks, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = network("tiny cnn")
    tiny.engines[1].node = HostCallbackNode
    expected = predict_all(tiny.host_slot(), array_frames(4), tiny.thresholds)
    assert predict_all(tiny.slot("graph"), array_frames(4), tiny.thresholds) == expected
    [message] = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert message == "the chain cannot be one CUDA graph, so the host checks each exit: CUDA_ERROR_NOT_SUPPORTED"
    assert world.calls["captures alive"] == 0


def test_an_invalidated_capture_is_not_used_and_a_warning_is_logged(
    network: Networks, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = network("tiny cnn")
    world.failing["invalidated"] = DriverError()
    expected = predict_all(tiny.host_slot(), array_frames(4), tiny.thresholds)
    assert predict_all(tiny.slot("graph"), array_frames(4), tiny.thresholds) == expected
    reason = "segment 0 cannot be captured: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    assert f"so the host checks each exit: {reason}" in caplog.text
    assert world.calls["captures alive"] == 0


def test_a_capture_spoilt_after_its_work_was_enqueued_is_an_error(world: World) -> None:
    from pycuda.driver import Context

    from edge.cuda.capture import capture

    def spoil(stream: int) -> None:
        with pytest.raises(DriverError, match="CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
            Context.synchronize()

    context = edge.cuda.get_runtime()
    with context.prepare("capturing"), pytest.raises(RuntimeError, match="CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
        capture(spoil)
    assert world.calls["streams freed"] == world.calls["stream"]


def test_a_segment_that_fails_after_its_work_was_captured_leaves_no_graph(world: World) -> None:
    from edge.cuda.capture import capture

    def fail(stream: int) -> None:
        raise EngineError("no room")

    with edge.cuda.get_runtime().prepare("capturing"), pytest.raises(EngineError, match="no room"):
        capture(fail)
    assert (world.calls["cuStreamEndCapture"], world.calls["captures alive"]) == (1, 0)


@pytest.mark.parametrize("call", ["push", "pop"])
def test_a_context_that_fails_to_change_blocks_no_other_thread(call: str, world: World) -> None:
    context = edge.cuda.get_runtime()
    world.failing[call] = DriverError("CUDA_ERROR_INVALID_CONTEXT")
    expected = "loading failed: DriverError: CUDA_ERROR_INVALID_CONTEXT"
    with pytest.raises(EngineError, match=expected), context.prepare("loading"):
        pass
    with pytest.raises(EngineError, match="no room" if call == "pop" else expected), context.prepare("loading"):
        raise EngineError("no room")
    del world.failing[call]

    def prepare() -> str:
        with context.prepare("loading"):
            return "loaded"

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(prepare).result(10) == "loaded"


def test_a_frame_that_no_exit_answers_is_an_error_and_repeats_no_earlier_answer(
    network: Networks, world: World
) -> None:
    slot, [frame] = network("tiny cnn").slot("graph"), array_frames(1)
    assert predict(slot, frame, [NEVER, NEVER]).exit_index == 2
    world.run_bodies = False
    with pytest.raises(EngineError, match="no exit answered this frame"):
        predict(slot, frame, [NEVER, NEVER])


@pytest.mark.parametrize("make", ["slot", "batch"])
@pytest.mark.parametrize("call", ["mem_alloc", "stream"])
def test_a_failed_allocation_frees_the_rest_at_once(call: str, make: str, network: Networks, world: World) -> None:
    tiny, [frame] = network("tiny cnn"), array_frames(1)
    world.failing[call] = DriverError("CUDA_ERROR_OUT_OF_MEMORY")
    edge.cuda.get_runtime()
    with pytest.raises(EngineError, match="CUDA_ERROR_OUT_OF_MEMORY") as failure:
        tiny.batch() if make == "batch" else predict(tiny.slot(), frame, [0, 0])
    assert failure.tb is not None  # the traceback keeps the failed objects
    assert world.calls["pinned freed"] == len(world.pinned)
    for allocated, freed in (("mem_alloc", "free"), ("stream", "streams freed")):
        assert world.calls[freed] == world.calls[allocated] - (allocated == call)
    assert world.calls["freed without a context"] == 0


REFUSED = ("graph definition", "add node", "instantiate", "graph upload", "graph launch")


@pytest.mark.parametrize("call", REFUSED)
def test_a_driver_that_refuses_every_graph_runs_stepwise(
    call: str, network: Networks, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = network("tiny cnn")
    world.failing[call] = CoreError("CUDA_ERROR_NOT_SUPPORTED")
    expected = predict_all(tiny.host_slot(), array_frames(4), tiny.thresholds)
    slots = [tiny.slot("graph") for _ in range(2)]
    for slot in slots:
        assert predict_all(slot, array_frames(4), tiny.thresholds) == expected
        assert slot.graph_unsupported_reason == "CUDA_ERROR_NOT_SUPPORTED"
    [message] = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert message == "the chain cannot be one CUDA graph, so the host checks each exit: CUDA_ERROR_NOT_SUPPORTED"
    assert world.calls["captures alive"] == world.calls["graphs alive"] == 0


def test_a_graph_that_was_refused_for_frames_of_one_size_may_run_for_others(network: Networks, world: World) -> None:
    world.failing["instantiate"] = CoreError("CUDA_ERROR_NOT_SUPPORTED")
    slot = network("tiny cnn", spec=IMAGES).slot("graph")
    assert slot.graph_unsupported_reason
    world.failing.clear()
    predict(slot, bgr_frame(20), [0, 0])
    assert not slot.graph_unsupported_reason


def test_stepwise_uploads_and_preprocesses_a_frame_once(network: Networks, world: World) -> None:
    slot = network("tiny cnn", spec=IMAGES).slot("stepwise")
    predict(slot, bgr_frame(20), [NEVER, NEVER])
    world.ran.clear()
    assert predict(slot, bgr_frame(20), [NEVER, NEVER]).exit_index == 2
    steps = [step for k in range(3) for step in (f"segment {k}", "decide")]
    assert world.ran == ["upload", "preprocess", *steps]


@pytest.mark.parametrize(("refusals", "is_captured"), [(2, True), (3, False)])
def test_a_capture_is_attempted_three_times(
    refusals: int, is_captured: bool, network: Networks, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = network("tiny cnn")
    refuse_capture(tiny.engines[1], world, refusals)
    predict(tiny.slot("graph"), array_frames(1)[0], [0, 0])
    reason = "so the host checks each exit: segment 1 cannot be captured: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    assert (reason in caplog.text) != is_captured
    assert world.calls["graphs alive"] == (1 if is_captured else 0)
    assert world.calls["captures alive"] == 0


def test_a_segment_that_cannot_be_captured_is_enqueued_for_each_frame(network: Networks, world: World) -> None:
    tiny = network("tiny cnn")
    refuse_capture(tiny.engines[1], world)
    expected = predict_all(tiny.host_slot(), array_frames(4), tiny.thresholds)
    assert predict_all(tiny.slot("graph"), array_frames(4), tiny.thresholds) == expected
    assert all(stream.capture is None for stream in world.streams.values())


def refuse_capture(engine: SessionEngine, world: World, times: float = float("inf")) -> None:
    """Let a segment fail when it is captured."""
    bind, refusals = engine.bind, count()

    def bind_uncapturable(addresses: dict[str, int]) -> Callable[[int], None]:
        run = bind(addresses)

        def enqueue(stream: int) -> None:
            if world.streams[stream].capture is not None and next(refusals) < times:
                raise CoreError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
            run(stream)

        return enqueue

    engine.bind = bind_uncapturable  # type: ignore[method-assign]


# Failing calls

OPENING = ("init", "device", "retain", "get_kernel")
FAILING = {
    "init": "no NVIDIA GPU can be used here",
    "device": "no NVIDIA GPU can be used here",
    "retain": "no NVIDIA GPU can be used here",
    "get_kernel": "preparing the GPU failed",
    "mem_alloc": "preparing for frames failed",
    "pagelocked_empty": "preparing for frames failed",
    "stream": "preparing for frames failed",
    "graph launch": "sending a frame failed",
    "synchronize": "waiting for a result failed",
}


@pytest.mark.parametrize("call", FAILING)
def test_a_failing_status_is_an_error_that_names_the_task(call: str, network: Networks, world: World) -> None:
    tiny, [frame] = network("tiny cnn"), array_frames(1)
    error = (CoreError if call in ("graph launch", "get_kernel") else DriverError)(f"{call}: CUDA_ERROR_UNKNOWN")
    expected = f"{FAILING[call]}.*{call}: CUDA_ERROR_UNKNOWN"
    if call in OPENING:
        world.failing[call] = error
        with pytest.raises(EngineError, match=expected):
            tiny.slot("graph")
        return
    if call not in ("graph launch", "synchronize"):
        edge.cuda.get_runtime()
        world.failing[call] = error
        with pytest.raises(EngineError, match=expected):
            tiny.slot("graph")
        del world.failing[call]
    slot = tiny.slot("graph")
    if call not in ("graph launch", "synchronize"):
        return
    world.failing[call] = error
    with pytest.raises(EngineError, match=expected):
        predict(slot, frame, [0, 0])
    assert world.depth() == 0
    del world.failing[call]
    assert predict(slot, frame, [0, 0]).exit_index == 0
    slot.close()
    gc.collect()
    assert world.calls["mem_alloc"] - world.calls["free"] == (call == "mem_alloc")


def test_threads_open_the_gpu_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from pycuda.driver import Device

    both, retain = threading.Barrier(2), Device.retain_primary_context

    def slow(device: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.1)
        return retain(device)

    monkeypatch.setattr(Device, "retain_primary_context", slow)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: edge.cuda.get_runtime(), range(2))
    assert first is second
    assert world.calls["retain"] == 1


@pytest.mark.parametrize("is_enabled", [True, False])
def test_garbage_collection_is_restored_after_a_capture_even_one_that_failed(
    is_enabled: bool, network: Networks, world: World
) -> None:
    from edge.cuda.capture import capture

    def fail(stream: int) -> None:
        raise CoreError("CUDA_ERROR_UNKNOWN")

    (gc.enable if is_enabled else gc.disable)()
    try:
        predict(network("tiny cnn").slot("graph"), array_frames(1)[0], [0, 0])
        assert gc.isenabled() == is_enabled
        with edge.cuda.get_runtime().activate("failing"), pytest.raises(CoreError):
            capture(fail)
        assert gc.isenabled() == is_enabled
    finally:
        gc.enable()


def test_garbage_collection_stays_paused_until_all_threads_have_captured(world: World) -> None:
    from edge.cuda.capture import capture

    context, is_over, both = edge.cuda.get_runtime(), threading.Event(), threading.Barrier(2)

    def fill(is_first: bool, stream: int) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.1)
        if not is_first:
            is_over.wait(1)

    def work(is_first: bool) -> None:
        with context.prepare("capturing"):
            capture(partial(fill, is_first))
        if is_first:
            is_over.set()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, (True, False)))
    assert gc.isenabled()


def test_threads_take_turns_in_preparing_while_others_run_frames(network: Networks, world: World) -> None:
    """Engines are loaded, memory is freed and segments are captured in turn: each may spoil a capture."""
    context, slot, [frame] = edge.cuda.get_runtime(), network("tiny cnn").slot("graph"), array_frames(1)
    predict(slot, frame, [0, 0])
    order: list[str] = []

    def prepare() -> None:
        with context.prepare("loading an engine"):
            order.append("prepared")

    with ThreadPoolExecutor(2) as threads:
        with context.prepare("capturing"):
            second = threads.submit(prepare)
            assert threads.submit(predict, slot, frame, [0, 0]).result(10).exit_index == 0
            order.append("captured")
        second.result(10)
    assert order == ["captured", "prepared"]


def test_an_engine_that_refuses_an_address_leaves_no_memory_behind(network: Networks, world: World) -> None:
    tiny = network("tiny cnn")

    def refuse(addresses: dict[str, int]) -> Any:
        raise EngineError("no room")

    tiny.engines[2].bind = refuse  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="no room"):
        predict(tiny.slot("graph"), array_frames(1)[0], [0, 0])
    assert world.calls["mem_alloc"] == world.calls["free"]


# Released resources


def test_a_frame_of_another_size_replaces_the_memory(world: World, network: Networks) -> None:
    slot = network("tiny cnn", spec=IMAGES).slot("graph")
    for height in (20, 30, 20, 30):
        predict(slot, bgr_frame(height), [0, 0])
        assert world.calls["mem_alloc"] - world.calls["free"] == 2
        assert world.calls["graphs alive"] == 1
        gc.collect()
        assert len(world.pinned) - world.calls["pinned freed"] == 2
    slot.close()
    slot.close()
    assert world.calls["mem_alloc"] == world.calls["free"]
    assert world.calls["graphs alive"] == world.calls["captures alive"] == 0
    assert world.calls["pinned freed"] == len(world.pinned)
    assert world.calls["streams freed"] == world.calls["stream"]
    assert world.calls["freed without a context"] == 0


def test_arrays_of_all_number_types_use_the_same_memory(network: Networks, world: World) -> None:
    slot = network("tiny cnn").slot("graph")
    [frame] = array_frames(1)
    expected, before = predict(slot, frame, [0, 0]), world.calls["mem_alloc"]
    with pytest.raises(SourceError, match="array frame has shape"):
        predict(slot, Frame(frame.pixels[:, :-1], PixelFormat.ARRAY), [0, 0])
    assert predict(slot, Frame(frame.pixels.astype(np.float64), PixelFormat.ARRAY), [0, 0]) == expected
    assert world.calls["mem_alloc"] == before


def test_closing_a_classifier_frees_its_memory(network: Networks, world: World) -> None:
    gpu, frames = network("tiny cnn").classifier(), array_frames(3)
    for frame in frames:
        gpu.predict(frame)
    gc.collect()
    before = world.calls.copy()
    gpu.close()
    gpu.close()
    gc.collect()
    assert world.calls["pinned freed"] == before["pinned freed"] + 2
    assert world.calls["freed without a context"] == before["freed without a context"]
    assert world.calls["mem_alloc"] == world.calls["free"]
    with pytest.raises(EngineError, match="the classifier was closed"):
        gpu.predict(frames[0])


def test_a_recording_frees_its_memory_even_if_a_frame_is_refused(network: Networks, world: World) -> None:
    gpu = network("tiny cnn").classifier()
    assert record(gpu, array_frames(3)).logits.shape == (3, 3, 4)
    with pytest.raises(SourceError):
        record(gpu, [Frame(np.zeros(3), PixelFormat.ARRAY)])
    assert world.calls["mem_alloc"] == world.calls["free"]
    assert world.calls["graphs alive"] == 0


@pytest.mark.parametrize("then", ["close", "another size"])
def test_a_frame_whose_result_is_not_awaited_keeps_its_memory_until_it_is_done(
    then: str, network: Networks, world: World
) -> None:
    slot, thresholds = network("tiny cnn", spec=IMAGES).slot("graph"), np.zeros(2, np.float32)
    slot.start(bgr_frame(20), thresholds)
    if then == "another size":
        assert predict(slot, bgr_frame(30), thresholds).exit_index == 0
        assert world.calls["mem_alloc"] - world.calls["free"] == 2
    slot.close()
    assert world.calls["mem_alloc"] == world.calls["free"]


def test_a_closed_slot_has_no_buffer_and_takes_no_frame(network: Networks) -> None:
    slot = network("tiny cnn", spec=IMAGES).slot("graph")
    predict(slot, bgr_frame(20), [0, 0])
    slot.close()
    assert slot.buffer is None
    with pytest.raises(EngineError, match="this slot was closed; open another"):
        predict(slot, bgr_frame(20), [0, 0])


# The first frame


def test_arrays_need_no_preparation_after_a_slot_is_opened(network: Networks, world: World) -> None:
    slot, [frame] = network("tiny cnn").slot("graph"), array_frames(1)
    counts = []
    for _ in range(2):
        world.calls.clear()
        predict(slot, frame, [NEVER, NEVER])
        counts.append(world.calls.copy())
    assert counts[0] == counts[1]


def test_images_of_another_size_need_no_library_and_the_first_costs_what_the_second_does(
    network: Networks, world: World
) -> None:
    slot, counts = network("tiny cnn", spec=IMAGES).slot("graph"), []
    world.calls.clear()
    slot.prepare(bgr_frame(20))
    assert world.calls["graph launch"]
    assert not world.calls["cuStreamBeginCapture"]
    for _ in range(2):
        world.calls.clear()
        predict(slot, bgr_frame(20), [NEVER, NEVER])
        counts.append(world.calls.copy())
    assert counts[0] == counts[1]
