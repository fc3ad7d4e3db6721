"""What the CUDA runtime does where something is missing or fails, and that it gives back what it took."""

import gc
import importlib.util
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_networks import PICTURES, Networks, answers, frames
from cuda_stand_in import (
    CoreError,
    DriverError,
    HostCallbackNode,
    IllegalUseError,
    SessionEngine,
    World,
    driver_module,
)

import edge.cuda
from edge.doctor import exits_on_the_gpu
from edge.errors import EngineError, SourceError
from edge.recording import record

# What is missing


def test_without_conditions_the_level_is_stepwise_and_says_why(world: World) -> None:
    world.failing["if_then"] = CoreError("CUDA_ERROR_NOT_SUPPORTED")
    runtime = edge.cuda.opened()
    assert runtime.level == "stepwise"
    assert runtime.why_not_graph == "CoreError: CUDA_ERROR_NOT_SUPPORTED"


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
    assert (edge.cuda.opened().level, edge.cuda.opened().why_not_graph) == ("graph", "")


def test_a_segment_that_may_not_be_in_a_body_is_run_step_by_step_and_that_is_said(
    network: Networks, capsys: pytest.CaptureFixture[str]
) -> None:
    one = network("tiny cnn")
    one.engines[1].node = HostCallbackNode
    assert answers(one.on_gpu("graph"), frames(4)) == answers(one.host, frames(4))
    said = " ".join(capsys.readouterr().err.split())
    assert "segment 1 cannot be part of a graph" in said
    assert "it puts CU_GRAPH_NODE_TYPE_HOST into its graph" in said


def test_a_segment_that_cannot_be_captured_is_enqueued_for_each_frame(network: Networks, world: World) -> None:
    one = network("tiny cnn")
    gpu = one.on_gpu("graph")
    enqueue = one.engines[1].bind

    def uncapturable(addresses: dict[str, int]) -> Callable[[int], None]:
        run = enqueue(addresses)

        def checked(stream: int) -> None:
            if world.streams[stream].capture is not None:
                raise CoreError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
            run(stream)

        return checked

    one.engines[1].bind = uncapturable  # type: ignore[method-assign]
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
        assert world.left_over == 0
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
    slot.close()
    slot.close()
    assert world.calls["mem_alloc"] == world.calls["free"]
    assert world.calls["graphs alive"] == 0


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
