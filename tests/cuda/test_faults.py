"""What the CUDA runtime does where something is missing or fails, and that it gives back what it took."""

import gc
import importlib.util
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edge.cuda
from edge.decision import NEVER
from edge.doctor.checks import exits_on_the_gpu
from edge.engines.cache import EngineCache
from edge.errors import EngineError, SourceError
from edge.inference.record import record
from tests.support.cuda_networks import PICTURES, Networks, answers, frames
from tests.support.cuda_stand_in import (
    CoreError,
    DriverError,
    Graph,
    GraphBuilder,
    HostCallbackNode,
    IllegalUseError,
    SessionEngine,
    World,
    driver_module,
)

# What is missing


def test_without_conditions_the_level_is_stepwise_and_says_why(world: World) -> None:
    world.failing["if_then"] = CoreError("CUDA_ERROR_NOT_SUPPORTED")
    runtime = edge.cuda.get_runtime()
    assert runtime.level == "stepwise"
    assert runtime.graph_unsupported_reason == "CoreError: CUDA_ERROR_NOT_SUPPORTED"


def test_doctor_says_who_decides_and_why_not_the_gpu(world: World) -> None:
    assert exits_on_the_gpu().found == "decided on the GPU: one graph, one wait a frame"
    world.failing["if_then"] = CoreError("CUDA_ERROR_NOT_SUPPORTED")
    from edge.cuda.runtime import _opened

    _opened.cache_clear()
    found = exits_on_the_gpu()
    assert found.found == "decided by the host, exit by exit: CoreError: CUDA_ERROR_NOT_SUPPORTED"
    assert not found.is_well
    world.failing["init"] = DriverError("CUDA_ERROR_NO_DEVICE")
    _opened.cache_clear()
    assert exits_on_the_gpu().found == "not run here: CUDA_ERROR_NO_DEVICE"


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="pycuda is there")
def test_without_pycuda_doctor_says_what_to_install() -> None:
    found = exits_on_the_gpu()
    assert found.found.startswith("not run here: No module named 'pycuda")
    assert "pip install 'early-exit[cuda13]'" in found.remedy


def test_with_conditions_the_level_is_graph(world: World) -> None:
    assert (edge.cuda.get_runtime().level, edge.cuda.get_runtime().graph_unsupported_reason) == ("graph", "")


@pytest.mark.parametrize(
    ("bodies", "problem"), [(True, "set to 0 was taken for 1"), (False, "set to 1 was taken for 0")]
)
def test_conditions_that_are_not_heeded_are_found_when_the_gpu_is_opened(
    bodies: bool, problem: str, world: World
) -> None:
    world.bodies = bodies
    runtime = edge.cuda.get_runtime()
    assert (runtime.level, runtime.graph_unsupported_reason) == ("stepwise", f"a condition {problem}")


@pytest.mark.parametrize("bodies", [True, False])
def test_conditions_that_are_not_heeded_later_are_found_before_a_frame_is_answered(
    bodies: bool, network: Networks, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    one = network("tiny cnn")
    slot = one.on_gpu("graph").new_slot()
    world.bodies = bodies
    for exit_index, frame in enumerate(frames(3)):
        for classifier in (one.host, slot._classifier):
            classifier.set_thresholds([2.0] * exit_index + [0.0] * (2 - exit_index))
        slot.frame = frame
        slot.load()
        found, expected = slot.infer(), one.host.classify(frame)
        assert (found.label, found.exit_index) == (expected.label, expected.exit_index)
    assert "in one graph the chain answers otherwise" in " ".join(capsys.readouterr().err.split())
    slot.close()
    assert world.calls["graphs alive"] == 0


ANSWERED = {"label": 3, "confidence": 0.5, "probability": 0.6, "exit_index": 1, "is_final": 1}


class Said:
    """A way to run a chain, which says one thing whenever no exit is taken, and another one otherwise."""

    def __init__(self, chain: Any, never: dict[str, Any] | None, sure: dict[str, Any] | None) -> None:
        self.chain, self.said = chain, {True: never, False: sure}

    def start(self) -> None:
        pass

    def finish(self) -> int:
        for name, value in (self.said[self.chain.threshold == NEVER] or {}).items():
            self.chain.answer[name] = value
        return 1

    def close(self) -> None:
        pass


OTHERWISE: dict[str, dict[str, Any] | None] = {
    **{name: ANSWERED | {name: value} for name, value in (("label", 4), ("exit_index", 2), ("is_final", 0))},
    **{name: ANSWERED | {name: 0.55} for name in ("confidence", "probability")},
    "not a number": ANSWERED | {"probability": np.nan},
    "nothing": None,
}


@pytest.mark.parametrize("when", ["no exit is taken", "the first exit is taken"])
@pytest.mark.parametrize("what", OTHERWISE)
def test_ways_to_run_a_chain_are_unlike_where_one_thing_they_say_is(what: str, when: str, world: World) -> None:
    from edge.cuda.executors import diff_outputs
    from edge.cuda.kernels import ANSWER

    chain: Any = SimpleNamespace(exits=3, answer=np.zeros(1, ANSWER), threshold=None)
    chain.set_thresholds = lambda values: setattr(chain, "threshold", values[0])
    other = (OTHERWISE[what], ANSWERED) if when == "no exit is taken" else (ANSWERED, OTHERWISE[what])
    for said in ((ANSWERED, ANSWERED), other):
        one, two = Said(chain, ANSWERED, ANSWERED), Said(chain, *said)
        assert bool(diff_outputs(one, two, chain)) == bool(diff_outputs(two, one, chain)) == (said is other)
    nan = ANSWERED | {"probability": np.nan}
    assert not diff_outputs(Said(chain, nan, nan), Said(chain, nan, nan), chain)


def test_a_segment_that_may_not_be_in_a_body_is_run_step_by_step_and_that_is_said(
    network: Networks, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    one = network("tiny cnn")
    one.engines[1].node = HostCallbackNode
    assert answers(one.on_gpu("graph"), frames(4)) == answers(one.host, frames(4))
    said = " ".join(capsys.readouterr().err.split())
    assert "segment 1 cannot be part of a graph" in said
    assert "it puts CU_GRAPH_NODE_TYPE_HOST into its graph" in said
    assert world.calls["captures alive"] == 0


def test_a_capture_that_the_driver_calls_spoilt_is_not_used_and_that_is_said(
    network: Networks, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    one = network("tiny cnn")
    world.failing["invalidated"] = DriverError()
    assert answers(one.on_gpu("graph"), frames(4)) == answers(one.host, frames(4))
    said = " ".join(capsys.readouterr().err.split())
    assert "its capture ended with CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" in said


@pytest.mark.parametrize("is_capturable", [True, False])
def test_a_frame_is_sent_and_preprocessed_once_however_many_segments_run(
    is_capturable: bool, network: Networks, world: World
) -> None:
    one = network("tiny cnn", spec=PICTURES)
    if not is_capturable:
        refuse_capture(one.engines[1], world)
    gpu, frame = one.on_gpu("stepwise"), np.zeros((20, 30, 3), np.uint8)
    gpu.set_thresholds([2.0, 2.0])
    gpu.classify(frame)
    world.ran.clear()
    assert gpu.classify(frame).exit_index == 2
    steps = [step for k in range(3) for step in (f"segment {k}", "answer")]
    assert world.ran == ["upload", "preprocess", *steps]


def refuse_capture(engine: SessionEngine, world: World) -> None:
    """Let a segment fail where it is captured."""
    enqueue = engine.bind

    def uncapturable(addresses: dict[str, int]) -> Callable[[int], None]:
        run = enqueue(addresses)

        def checked(stream: int) -> None:
            if world.streams[stream].capture is not None:
                raise CoreError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
            run(stream)

        return checked

    engine.bind = uncapturable  # type: ignore[method-assign]


def test_a_segment_that_cannot_be_captured_is_enqueued_for_each_frame(network: Networks, world: World) -> None:
    one = network("tiny cnn")
    gpu = one.on_gpu("graph")
    refuse_capture(one.engines[1], world)
    assert answers(gpu, frames(4)) == answers(one.host, frames(4))
    assert all(stream.capture is None for stream in world.streams.values())


FAILING = {
    "init": "no NVIDIA GPU can be used here",
    "device": "no NVIDIA GPU can be used here",
    "retain": "no NVIDIA GPU can be used here",
    "from_cubin": "preparing the GPU failed",
    "mem_alloc": "preparing for frames failed",
    "pagelocked_empty": "preparing for frames failed",
    "stream": "preparing for frames failed",
    "graph launch": "sending a frame failed",
    "synchronize": "waiting for an answer failed",
}


@pytest.mark.parametrize("call", FAILING)
def test_every_failing_status_is_an_error_that_says_what_was_being_done(
    call: str, network: Networks, world: World
) -> None:
    one = network("tiny cnn")
    error = (CoreError if call in ("graph launch", "from_cubin") else DriverError)(f"{call}: CUDA_ERROR_UNKNOWN")
    if call in ("init", "device", "retain", "from_cubin"):
        world.failing[call] = error
        with pytest.raises(EngineError, match=f"{FAILING[call]}.*{call}: CUDA_ERROR_UNKNOWN"):
            one.on_gpu("graph").new_slot()
        assert world.left_over == world.retained == 0
        return
    slot = one.on_gpu("graph").new_slot()
    slot.frame = frames(1)[0]
    if call in ("graph launch", "synchronize"):
        slot.load()
        slot.infer()
    world.failing[call] = error
    with pytest.raises(EngineError, match=f"{FAILING[call]}.*{call}: CUDA_ERROR_UNKNOWN"):
        (slot.load(), slot.infer())
    assert world.depth() == 0
    del world.failing[call]
    slot.load()
    assert slot.infer().exit_index >= 0
    slot.close()
    gc.collect()
    assert world.calls["mem_alloc"] - world.calls["free"] == (call == "mem_alloc")


def test_threads_that_open_the_gpu_together_open_it_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from pycuda.driver import Device

    both, retain = threading.Barrier(2), Device.retain_primary_context

    def slow(device: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.1)
        return retain(device)

    monkeypatch.setattr(Device, "retain_primary_context", slow)
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda _: edge.cuda.get_runtime(), range(2))
    assert one is other
    assert world.calls["retain"] == 1


def test_a_gpu_that_was_let_go_of_says_so(world: World) -> None:
    context = edge.cuda.get_runtime().context
    assert context.arch == "sm_87"
    context.close()
    context.close()
    assert world.retained == 0
    with pytest.raises(EngineError, match="anything: the GPU was let go of; open it again"):
        context.activate("anything")


def test_kernels_are_kept_apart_by_gpu_source_and_compiler(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.cuda import kernels

    folder = EngineCache().root
    first = [kernels.compiled(arch) for arch in ("sm_87", "sm_90", "sm_87")]
    assert [b"sm_87" in code for code in first] == [True, False, True]
    assert len(list(folder.iterdir())) == world.calls["compile"] == 2
    other = tmp_path / "other.cu"
    other.write_text("other")
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "SOURCE", other)
        assert kernels.compiled("sm_87") not in first
    monkeypatch.setattr("cuda.bindings.nvrtc.nvrtcVersion", lambda: (0, 99, 0))
    assert kernels.compiled("sm_87") == first[0]
    assert len(list(folder.iterdir())) == world.calls["compile"] == 4


@pytest.mark.parametrize("is_enabled", [True, False])
def test_garbage_is_collected_again_after_a_capture_even_one_that_failed(
    is_enabled: bool, network: Networks, world: World
) -> None:
    from edge.cuda.graph import captured

    (gc.enable if is_enabled else gc.disable)()
    try:
        network("tiny cnn").on_gpu("graph").classify(frames(1)[0])
        assert gc.isenabled() == is_enabled
        with edge.cuda.get_runtime().context.activate("failing"), pytest.raises(CoreError):
            captured(driver_stream(), failing)
        assert gc.isenabled() == is_enabled
    finally:
        gc.enable()


def test_garbage_is_not_collected_until_all_threads_have_captured(world: World) -> None:
    from edge.cuda.graph import captured

    context, is_over, both = edge.cuda.get_runtime().context, threading.Event(), threading.Barrier(2)

    def fill(is_first: bool, builder: Any) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.1)
        if not is_first:
            is_over.wait(1)

    def capture(is_first: bool) -> None:
        with context.activate("capturing"):
            captured(driver_stream(), partial(fill, is_first)).close()
        if is_first:
            is_over.set()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(capture, (True, False)))
    assert gc.isenabled()


def driver_stream() -> Any:
    from pycuda.driver import Stream

    from edge.cuda.memory import NON_BLOCKING

    return Stream(NON_BLOCKING)


def failing(builder: Any) -> None:
    raise CoreError("CUDA_ERROR_UNKNOWN")


def test_an_engine_that_does_not_take_the_memory_leaves_none_behind(network: Networks, world: World) -> None:
    one = network("tiny cnn")

    def refusing(addresses: dict[str, int]) -> Any:
        raise EngineError("no room")

    one.engines[2].bind = refusing  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="no room"):
        one.on_gpu("graph").classify(frames(1)[0])
    assert world.calls["mem_alloc"] == world.calls["free"] == 1


# What is given back


def test_frames_of_another_size_take_new_memory_and_give_back_the_old(world: World, network: Networks) -> None:
    one = network("tiny cnn", spec=PICTURES)
    slot = one.on_gpu("graph").new_slot()
    for height in (20, 30, 20, 30):
        slot.frame = np.full((height, 30, 3), height, np.uint8)
        slot.load()
        slot.infer()
        assert world.calls["mem_alloc"] - world.calls["free"] == 1
        assert world.calls["graphs alive"] == 1
        gc.collect()
        assert len(world.pinned) - world.calls["pinned freed"] == 1
    slot.close()
    slot.close()
    assert world.calls["mem_alloc"] == world.calls["free"]
    assert world.calls["graphs alive"] == world.calls["builders alive"] == world.calls["captures alive"] == 0
    assert world.calls["pinned freed"] == len(world.pinned)
    assert world.calls["streams freed"] == world.calls["stream"]
    assert world.calls["freed without a context"] == 0


def test_a_classifier_and_a_recording_give_back_what_they_took(network: Networks, world: World) -> None:
    gpu = network("tiny cnn").on_gpu("graph")
    expected = answers(gpu, frames(3))
    gc.collect()
    before = world.calls.copy()
    gpu.close()
    gpu.close()
    gc.collect()
    assert world.calls["pinned freed"] == before["pinned freed"] + 1
    assert world.calls["freed without a context"] == before["freed without a context"]
    assert world.calls["mem_alloc"] == world.calls["free"] == 1
    assert answers(gpu, frames(3)) == expected
    gpu.close()
    assert record(gpu, frames(3)).logits.shape == (3, 3, 4)
    with pytest.raises(SourceError):
        record(gpu, [np.zeros(3)])
    assert world.calls["mem_alloc"] == world.calls["free"]
    assert world.calls["graphs alive"] == 0


@pytest.mark.parametrize("then", ["close", "another size"])
def test_a_frame_that_nobody_waited_for_keeps_its_memory_until_it_is_done(
    then: str, network: Networks, world: World
) -> None:
    slot = network("tiny cnn", spec=PICTURES).on_gpu("graph").new_slot()
    slot.frame = np.zeros((20, 30, 3), np.uint8)
    slot.load()
    if then == "another size":
        slot.frame = np.zeros((30, 30, 3), np.uint8)
        slot.load()
        assert world.calls["mem_alloc"] - world.calls["free"] == 1
        assert slot.infer().exit_index >= 0
    slot.close()
    assert world.calls["mem_alloc"] == world.calls["free"]


def test_a_closed_slot_keeps_a_callers_frame_and_none_of_its_own(network: Networks) -> None:
    slot, mine = network("tiny cnn", spec=PICTURES).on_gpu("graph").new_slot(), np.zeros((20, 30, 3), np.uint8)
    slot.frame = mine
    slot.load()
    slot.infer()
    slot.close()
    assert slot.frame is None
    slot.frame = mine
    slot.load()
    slot.frame = mine
    slot.close()
    assert slot.frame is mine


# The stand-in refuses


def test_the_stand_in_refuses_what_a_gpu_would_not_forgive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_module(world)
    with pytest.raises(IllegalUseError, match="mem_alloc without a context"):
        driver.mem_alloc(8)
    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    allocation = driver.mem_alloc(8)
    allocation.free()
    with pytest.raises(IllegalUseError, match="freed twice"):
        allocation.free()
    with pytest.raises(IllegalUseError, match="was freed"):
        world.array(int(allocation), np.uint8)
    from cuda.core import Device, Stream

    with pytest.raises(IllegalUseError, match="waits for the default stream"):
        driver.Stream()
    stream = driver.Stream(1)
    borrowed = Stream.from_handle(stream.handle)
    builder, other = borrowed.create_graph_builder(), borrowed.create_graph_builder()
    with pytest.raises(IllegalUseError, match="garbage may be collected"):
        builder.begin_building()
    monkeypatch.setattr("gc.isenabled", lambda: False)
    with pytest.raises(IllegalUseError, match="what other threads do spoils"):
        builder.begin_building("global")
    with pytest.raises(IllegalUseError, match="not asked for its context"):
        builder.begin_building()
    _ = borrowed.context
    builder.begin_building()
    with pytest.raises(IllegalUseError, match="capture inside capture"):
        other.begin_building()
    condition = builder.create_condition()
    with pytest.raises(IllegalUseError, match="did not set its device"):
        builder.if_then(condition)
    Device(0).set_current()
    builder.if_then(condition)
    with pytest.raises(IllegalUseError, match="used twice"):
        builder.if_then(condition)
    builder.end_building()
    with pytest.raises(IllegalUseError, match="a body that was not built"):
        builder.complete()
    from cuda.core import LaunchConfig, launch

    with pytest.raises(IllegalUseError, match=r"gather_bytes of .* is given"):
        launch(Stream.from_handle(stream.handle), LaunchConfig(grid=1, block=32), "gather_bytes", 0, 0, np.int32(1), 0)
    from edge.cuda.memory import PinnedMemory

    memory = PinnedMemory({"first": 4, "second": 4})
    assert world.array(memory.addresses["first"], np.int32).nbytes == 4
    with pytest.raises(IllegalUseError, match="beyond their tensor"):
        world.array(memory.addresses["first"], np.int32, 2)
    with pytest.raises(IllegalUseError, match="beyond their tensor"):
        world.array(memory.addresses["first"] + 4, np.int32)
    before, after = driver.Event(), driver.Event()
    with pytest.raises(IllegalUseError, match="an event in the default stream"):
        before.record()
    with pytest.raises(IllegalUseError, match="an event that was not recorded"):
        after.time_since(before)
    (before.record(stream), after.record(stream))
    with pytest.raises(IllegalUseError, match="an event that is still to come"):
        after.time_since(before)
    stream.synchronize()
    assert after.time_since(before) > 0
    after.record(stream)
    with pytest.raises(IllegalUseError, match="an event that is still to come"):
        after.time_since(before)
    engine = SessionEngine(
        world, SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="image")], get_outputs=list), ""
    )
    with pytest.raises(IllegalUseError, match="no address for image"):
        engine.bind({})
    context.pop()
    with pytest.raises(IllegalUseError, match="event record without a context"):
        before.record(stream)


@pytest.mark.parametrize("call", ["complete", "graph upload"])
def test_a_chain_that_cannot_be_one_graph_is_run_step_by_step_and_that_is_said_once(
    call: str, network: Networks, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    one = network("tiny cnn")
    gpu = one.on_gpu("graph")
    complete, upload = GraphBuilder.complete, Graph.upload

    def failing_complete(builder: GraphBuilder) -> Graph:
        if call == "complete" and builder.conditions:
            raise CoreError("CUDA_ERROR_NOT_SUPPORTED")
        return complete(builder)

    def failing_upload(graph: Graph, stream: Any) -> None:
        if call == "graph upload":
            raise CoreError("CUDA_ERROR_NOT_SUPPORTED")
        upload(graph, stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GraphBuilder, "complete", failing_complete)
        patch.setattr(Graph, "upload", failing_upload)
        slots = [gpu.new_slot(), gpu.new_slot()]
        for slot in slots:
            [slot.frame] = frames(1)
            slot.load()
            assert slot.infer()[:3] == one.host.classify(frames(1)[0])[:3]
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("the chain cannot be one graph, so that the host looks at each exit: CUDA_ERROR_NOT") == 1


def test_arrays_of_any_type_travel_in_the_same_memory(network: Networks, world: World) -> None:
    gpu = network("tiny cnn").on_gpu("graph")
    [frame] = frames(1)
    expected = gpu.classify(frame)
    with pytest.raises(SourceError, match="an array has shape"):
        gpu.classify(frame[:, :-1])
    assert gpu.classify(frame.astype(np.float64)) == expected
    assert world.calls["mem_alloc"] == 1
